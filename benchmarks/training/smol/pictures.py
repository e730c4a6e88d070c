"""Scenes as the language model's training data: tower features, owners of patches, questions as tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsesight import bundled
from sparsesight.scenes.questions import DIRECTIONS, Question
from sparsesight.scenes.scenes import (
    CELLS,
    COLORS,
    GRID,
    KINDS,
    LETTERS,
    PATCH,
    SHAPES,
    SIDE,
    SINGLE_OBJECT,
    SIZES,
    SceneObject,
    questions,
    render,
)

from ..tower import normalise
from .prompts import Prompts

PATCHES = GRID * GRID
KIND_NAMES = list(KINDS)
# What can be asked of a token that stands for an object (all but the last) or for a number.
ATTRIBUTES = {
    "shape": len(SHAPES),
    "color": len(COLORS),
    "size": len(SIZES),
    "side": 2,
    "height": 2,
    "column": CELLS,
    "row": CELLS,
    "letter": len(LETTERS) + 1,
    "number": 6,
}
UNKNOWN = -100  # what cross_entropy leaves out
NAME, MARK, END = (
    0,
    1,
    2,
)  # places of a question: the end of an object's name, the question mark, where the answer begins
WAYS = [way.split()[0] for way in DIRECTIONS]


def attributes(item: SceneObject) -> list[int]:
    """The classes of an object, in the order of `ATTRIBUTES`."""
    x, y = item.center
    letter = LETTERS.index(item.letter) if item.letter else len(LETTERS)
    return [
        SHAPES.index(item.shape),
        list(COLORS).index(item.color),
        SIZES.index(item.size),
        int(x >= SIDE / 2),
        int(y >= SIDE / 2),
        *item.cell,
        letter,
        UNKNOWN,
    ]


@dataclass(frozen=True)
class Asked:
    """A question as tokens."""

    kind: str
    ids: tuple[int, ...]  # "\n", the question, what opens the answer, and the answer without its end
    given: int  # how many of them are given
    goal: tuple[int, ...]  # the answer with its end
    # What a token brings to mind, and which object it has to find: (place in ids, NAME, MARK or END, object)
    thoughts: tuple[tuple[int, int, int], ...]
    number: int  # how many objects are counted, or UNKNOWN


@dataclass
class Pictures:
    """`n` scenes, one row each; the names `owner` and `central` are those that `training.decoder.choose` reads."""

    features: torch.Tensor  # float16 [n, PATCHES, width of the tower]
    owner: np.ndarray  # int8 [n, PATCHES]: the object that owns a patch, or -1
    central: np.ndarray  # bool [n, PATCHES]: an object's centre lies in this patch
    objects: list[tuple[SceneObject, ...]]
    questions: list[list[Question]]
    prompts: Prompts
    known: dict[tuple[int, int], Asked] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.owner)

    def asked(self, row: int, slot: int) -> Asked:
        key = (row, slot)
        if key not in self.known:
            self.known[key] = tokens(self.questions[row][slot], self.prompts)
        return self.known[key]


def tokens(question: Question, prompts: Prompts) -> Asked:
    text = prompts.ids("\n" + question.text)
    given = text + prompts.closing
    answer = prompts.answer(question.answer)
    mark, end = len(text) - 1, len(given) - 1
    objects, thoughts = question.objects, []
    if question.kind in SINGLE_OBJECT:
        thoughts = [(mark - 1, NAME, objects[0]), (mark, MARK, objects[0]), (end, END, objects[0])]
    elif question.kind == "exist" and len(objects) == 1:
        thoughts = [(mark - 1, NAME, objects[0])]
    elif question.kind == "neighbor":
        thoughts = [(mark - 1, NAME, objects[0]), (mark, MARK, objects[1]), (end, END, objects[1])]
    elif question.kind == "compare":
        first = min(text.index(way) for way in map(prompts.word, WAYS) if way in text) - 1
        thoughts = [(first, NAME, objects[0]), (mark - 1, NAME, objects[1])]
    number = len(objects) if question.kind == "count" else UNKNOWN
    return Asked(
        question.kind, (*given, *answer), len(given), (*answer, prompts.end), tuple(thoughts), number
    )


def load_or_make(
    file: Path, prompts: Prompts, first_seed: int, n: int, per_scene: int, workers: int
) -> Pictures:
    """The scenes of consecutive seeds, from `file` if a run has written it."""
    if not file.exists():
        jobs = [
            (seed, min(25, first_seed + n - seed), per_scene)
            for seed in range(first_seed, first_seed + n, 25)
        ]
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(_make_some, jobs))
        fresh = file.with_suffix(".new")
        torch.save({key: _joined(parts, key) for key in parts[0]}, fresh)
        fresh.replace(file)
    made = torch.load(file, weights_only=False)  # this run's own file
    return Pictures(prompts=prompts, **made)


def _joined(parts: list[dict[str, Any]], key: str) -> Any:
    values = [part[key] for part in parts]
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [item for value in values for item in value]


def _make_some(job: tuple[int, int, int]) -> dict[str, Any]:
    torch.set_num_threads(1)
    first_seed, n, per_scene = job
    scenes = [render(first_seed + index) for index in range(n)]
    owner = np.stack([scene.owner.ravel() for scene in scenes]).astype(np.int8)
    central = np.zeros((n, PATCHES), dtype=bool)
    for row, scene in enumerate(scenes):
        for x, y in (item.center for item in scene.objects):
            central[row, int(y) // PATCH * GRID + int(x) // PATCH] = True
    pixels = np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene in scenes])
    return {
        "features": torch.cat(list(features(pixels))).half(),
        "owner": owner,
        "central": central,
        "objects": [scene.objects for scene in scenes],
        "questions": [questions(scene, per_scene) for scene in scenes],
    }


def features(pixels: np.ndarray) -> Iterator[torch.Tensor]:
    """What the tower of the bundled model makes of uint8 pictures [n, 3, SIDE, SIDE]: parts [.., PATCHES, width]."""
    tower = bundled.load()[0].model.vision_tower
    with torch.inference_mode():
        for part in torch.from_numpy(pixels).split(5):
            yield tower(pixel_values=normalise(part)).last_hidden_state[:, 1:]
