"""Part "controls": how much of the accuracy remains without the right picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sparsesight.scenes.dataset import Example
from sparsesight.scenes.scenes import SIDE

from .answering import Examiner, some_examples
from .intervals import by_group
from .presenting import group_bars, group_table, table

SPLIT = "test"
GREY = (128, 128, 128)


def commonest(examples: Sequence[Example]) -> dict[str, str]:
    """The most frequent answer of each kind; the alphabet decides a tie."""
    answers: dict[str, Counter[str]] = {}
    for example in examples:
        answers.setdefault(example.question.kind, Counter())[example.question.answer] += 1
    return {kind: min(seen, key=lambda said: (-seen[said], said)) for kind, seen in answers.items()}


def other_pictures(examples: Sequence[Example]) -> list[Image.Image]:
    """For each example the picture of the scene that follows its own, the first one after the last.

    Raises:
        ValueError: if there is only one scene.
    """
    images = {example.scene.seed: example.image for example in examples}
    if len(images) < 2:
        raise ValueError("the picture of another scene needs two scenes or more")
    seeds = list(images)
    following = dict(zip(seeds, seeds[1:] + seeds[:1], strict=True))
    return [images[following[example.scene.seed]] for example in examples]


def run(examiner: Examiner, arguments: Any) -> dict[str, Any]:
    """Estimates by control and group."""
    asked = some_examples(SPLIT, arguments.scenes)
    grey = Image.new("RGB", (SIDE, SIDE), GREY)
    sheets = {
        "right picture": (f"dense/{SPLIT}", examiner.own_pictures(asked)),
        "grey picture": (f"grey/{SPLIT}", examiner.sheet(asked, [grey] * len(asked))),
        "another scene's picture": (f"other/{SPLIT}", examiner.sheet(asked, other_pictures(asked))),
        "no picture": (f"blind/{SPLIT}", examiner.sheet(asked, None)),
    }
    found = {}
    for name, (cell, sheet) in tqdm(sheets.items(), desc="controls", unit="control"):
        found[name] = by_group(examiner.marks(cell, sheet), asked)
    prior = commonest(some_examples("val", None))
    right = np.array([prior.get(e.question.kind) == e.question.answer for e in asked])
    found["commonest answer"] = by_group(right, asked)
    return {"controls": found, "commonest": prior}


def markdown(numbers: dict[str, Any]) -> str:
    """A table with a column for each control, and the answers of the prior."""
    about = (
        f"Split {SPLIT}, nothing pruned. *grey picture*: sRGB {GREY} everywhere; *another scene's picture*: that of "
        "the next scene of the split; *no picture*: a prompt without visual tokens; *commonest answer*: always the "
        "most frequent answer of the kind in the split val.\n\n"
    )
    prior = table(["kind", "commonest answer in val"], [[*row] for row in numbers["commonest"].items()])
    return about + group_table(numbers["controls"]) + "\n" + prior


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bars by group and control."""
    group_bars(numbers["controls"], "Controls on the split test: exact answers, 95 % intervals", path)
