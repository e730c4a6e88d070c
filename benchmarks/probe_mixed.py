"""How well a model answers mixed scenes, by kind of picture and question, and what is left without the right picture.

    python benchmarks/probe_mixed.py --model smol --dtype bfloat16 --out benchmarks/results/smol/mixed

Writes probes.json, every score, and probes.md. A run that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from probing.controls import GREY
from probing.presenting import table
from tqdm import tqdm

from sparsesight.bench import environment
from sparsesight.eval.image_task import PictureQuestions, pictures_of
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.records import Item
from sparsesight.eval.scene_sets import scene_set
from sparsesight.eval.statistics import estimate, resample
from sparsesight.files import replace_file
from sparsesight.hf.loading import load_model
from sparsesight.provenance import weights_fingerprint
from sparsesight.scenes.mixed.dataset import VERSION
from sparsesight.scenes.scenes import SIDE

Scores = dict[str, float]  # item -> how right its answer is


def grey(items: Sequence[Item]) -> list[Item]:
    """The questions about grey pictures."""
    blank = Image.new("RGB", (SIDE, SIDE), GREY)
    return [replace(item, request=(blank,) * len(pictures_of(item.request))) for item in items]


def exchanged(items: Sequence[Item]) -> list[Item]:
    """The questions about the next picture of the same kind, the first one after the last.

    Raises:
        ValueError: there is only one picture of a kind.
    """
    by_kind: dict[str, dict[str, Any]] = {}
    for item in items:
        by_kind.setdefault(item.tags[0], {})[item.unit] = item.request
    other: dict[str, Any] = {}
    for kind, requests in by_kind.items():
        if len(requests) < 2:
            raise ValueError(f"a wrong picture needs two pictures of {kind!r} or more")
        units = list(requests)
        other |= {unit: requests[after] for unit, after in zip(units, units[1:] + units[:1], strict=True)}
    return [replace(item, request=other[item.unit]) for item in items]


def without(items: Sequence[Item]) -> list[Item]:
    """The questions alone."""
    return [replace(item, request=()) for item in items]


CONTROLS = {"grey picture": grey, "another picture": exchanged, "no picture": without}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model(arguments.model, "cpu", arguments.dtype)
    told = {"weights": weights_fingerprint(loaded.model), "version": VERSION}
    file = arguments.out / "probes.json"
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if data.get("subject") != told:
        data = {"subject": told, "cells": {}}
    data["made_with"] = environment("cpu", loaded.model.dtype)
    first, *others = arguments.tasks.split(",")
    asked = {first: some_items(first, arguments.questions)}
    asked |= {name: some_items(name, arguments.others) for name in others}
    few = whole_pictures(asked[first], arguments.controls)
    cells = asked | {f"{first}, {name}": make(few) for name, make in CONTROLS.items()}
    for name, items in tqdm(cells.items(), desc="probes", unit="cell"):
        scores: Scores = data["cells"].setdefault(name, {})
        left = [item for item in items if item.id not in scores]
        for start in range(0, len(left), arguments.batch * 4):
            scores |= answered(loaded, name, left[start : start + arguments.batch * 4], arguments.batch)
            replace_file(file, json.dumps(data, indent=1) + "\n")
    replace_file(arguments.out / "probes.md", markdown(data, cells))


def some_items(task: str, questions: int) -> list[Item]:
    """The first questions of a task, all of each picture.

    Raises:
        ValueError: it is no task of scenes.
    """
    scenes = scene_set(task)
    if scenes is None:
        raise ValueError(f"--tasks {task!r} is no task of scenes")
    return whole_pictures(scenes.items(questions + 40), questions)


def whole_pictures(items: Sequence[Item], questions: int) -> list[Item]:
    """The first pictures with at least so many questions together."""
    if len(items) <= questions:
        return list(items)
    last = items[questions - 1].unit
    end = max(index for index, item in enumerate(items) if item.unit == last)
    return list(items[: end + 1])


def answered(loaded: Any, name: str, items: Sequence[Item], size: int) -> Scores:
    """How right the answers to some questions are."""
    prompts = Prompts(loaded.processor, choose_setting("own", loaded.name), frames=8, clips=False)
    scenes = scene_set(name.split(",")[0])
    assert scenes is not None
    task = PictureQuestions(
        name, items, loaded, prompts, max_new_tokens=scenes.answer_tokens, scorer=scenes.scorer
    )
    said: dict[str, str] = {}
    with task.answering(None) as answer:
        for start in range(0, len(items), size):
            some = items[start : start + size]
            said |= {item.id: one.text for item, one in zip(some, answer(some), strict=True)}
    return {name: round(scores["correct"], 4) for name, scores in task.score(said).items()}


def markdown(data: dict[str, Any], cells: dict[str, list[Item]]) -> str:
    """A row for each kind of picture and question, a column for each cell."""
    kinds = {item.tags[:2] for items in cells.values() for item in items}
    groups = sorted({kind[:1] for kind in kinds} | kinds)
    rows = [
        [" ".join(group), *(shown(group, data["cells"][name], items) for name, items in cells.items())]
        for group in groups
    ]
    facts = ", ".join(f"{name} {value}" for name, value in {**data["subject"], **data["made_with"]}.items())
    about = (
        "How right the answers of `generate` are, greedy, nothing pruned, with a 95 % interval (bootstrap over "
        "pictures) and the number of questions. A sentence counts by the things it names, a box by its overlap."
    )
    return "\n\n".join(["# Probes of mixed scenes", facts, about, table(["questions", *cells], rows)])


def shown(group: tuple[str, ...], scores: Scores, items: Sequence[Item]) -> str:
    """The mean of a group with its interval; nothing if no item is of it."""
    mine = [item for item in items if item.tags[: len(group)] == group]
    if not mine:
        return ""
    values = np.array([scores[item.id] for item in mine])
    units = [item.unit for item in mine]
    sums = resample(np.stack([values, np.ones(len(mine))], axis=1), units)
    found = estimate(values.mean(), sums[:, 0] / sums[:, 1], len(set(units)))
    return f"{found.text(2)}, n {len(mine)}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--model", help="smol, or the folder of another model (default: bundled)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    add(
        "--tasks",
        default="scenes-mixed,scenes-new-things",
        help="sets of mixed scenes; the controls are about the first (default: scenes-mixed,scenes-new-things)",
    )
    add("--questions", type=int, default=400, help="of the first set, at least (default: 400)")
    add("--others", type=int, default=200, help="questions of each other set, at least (default: 200)")
    add("--controls", type=int, default=200, help="questions of each control, at least (default: 200)")
    add("--batch", type=int, default=8, help="prompts at once (default: 8)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
