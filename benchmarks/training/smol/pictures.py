"""Scenes as the language model's training data: tower features, owners of patches, questions as tokens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsesight.scenes.mixed.dataset import PICTURES, SHARES
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
KIND_NAMES = [*KINDS, *(f"{picture} {kind}" for picture in PICTURES for kind in SHARES)]  # of mixed scenes
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
BLUR = 0.4  # of ideal visual tokens: the length of the noise in theirs
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
    counted: tuple[int, ...] | None  # the objects that are counted, if any are
    # Of mixed scenes, what a token has to find: (place in ids, elements, whether by way of something else)
    seeks: tuple[tuple[int, tuple[int, ...], bool], ...] = ()


@dataclass
class Pictures:
    """`n` prompts, one row each; the names `owner` and `central` are those that `training.decoder.choose` reads.

    A place is a patch; two pictures have their patches one after the other, and the line break between them.
    """

    features: torch.Tensor  # float16 [n, places, width of the tower]
    owner: np.ndarray  # int8 [n, places]: the object that owns a patch, or -1
    central: np.ndarray  # bool [n, places]: an object's centre lies in this patch
    objects: list[tuple[SceneObject, ...]]  # empty where nothing but answers is trained
    questions: list[list[Question]]
    prompts: Prompts
    known: dict[tuple[int, int], Asked] = field(default_factory=dict)
    # per prompt, how the patches of each object should look, then those of none: float16 [objects + 1, width]
    ideal: list[torch.Tensor] | None = None
    names: list[tuple[str, ...]] | None = None  # per prompt those of the elements of a mixed scene

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def span(self) -> int:
        """Places of a prompt."""
        return self.owner.shape[1]

    def seen(self, rows: np.ndarray, visible: np.ndarray, projector: Any) -> torch.Tensor:
        """Visual tokens [pictures, n, width] of the places `visible` [pictures, n]; ideal ones come with some noise."""
        if self.ideal is None:
            shown = self.features[torch.from_numpy(rows)[:, None], torch.from_numpy(visible)].float()
            made: torch.Tensor = projector(shown)
            return made
        owner = np.take_along_axis(self.owner[rows], visible, axis=1).astype(np.int64)
        tokens = torch.stack(
            [self.ideal[row][torch.from_numpy(who)] for row, who in zip(rows.tolist(), owner, strict=True)]
        ).float()
        length = tokens.norm(dim=-1, keepdim=True) / tokens.shape[-1] ** 0.5
        return tokens * (0.7 + 0.3 * torch.rand_like(length)) + BLUR * length * torch.randn_like(tokens)

    @cached_property
    def kinds(self) -> np.ndarray:
        """The kind of every question [n, most questions], -1 where a picture has fewer."""
        found = np.full((len(self), max(map(len, self.questions))), -1)
        for row, asked in enumerate(self.questions):
            found[row, : len(asked)] = [KIND_NAMES.index(question.kind) for question in asked]
        return found

    def asked(self, row: int, slot: int) -> Asked:
        key = (row, slot)
        if key not in self.known:
            names = self.names[row] if self.names is not None else None
            self.known[key] = tokens(self.questions[row][slot], self.prompts, names)
        return self.known[key]


def places_of(name: str, ids: list[int], prompts: Prompts) -> list[int]:
    """Where a name begins in ids."""
    word = prompts.ids(" " + name)
    return [at for at in range(len(ids) - len(word) + 1) if ids[at : at + len(word)] == word]


def sought(
    question: Question, names: tuple[str, ...], text: list[int], answer: list[int], end: int, prompts: Prompts
) -> list[tuple[int, tuple[int, ...], bool]]:
    """What the tokens of a question about a mixed scene have to find; see `Asked.seeks`."""
    kind, objects, mark = question.kind.split()[-1], question.objects, len(text) - 1
    seeks: list[tuple[int, tuple[int, ...], bool]] = []
    if kind not in ("count", "more", "only", "describe"):
        for name in dict.fromkeys(names[index] for index in objects):
            them = tuple(index for index in objects if names[index] == name)
            last = len(prompts.ids(" " + name)) - 1
            seeks += [(at + last, them, False) for at in places_of(name, text, prompts)]
    if kind in ("color", "shape", "size", "letter", "where", "point"):
        seeks += [(mark, objects[:1], False), (end, objects[:1], False)]
    elif kind == "name":
        seeks += [(mark, objects, True), (end, objects, True)]
    elif kind == "neighbor":
        seeks += [(mark, objects[1:2], True), (end, objects[1:2], True)]
    elif kind == "only":
        seeks += [(end, tuple(index for index in objects if names[index] == question.answer), True)]
    elif kind == "describe":
        after = 0
        for index in objects:
            at = next((at for at in places_of(names[index], answer, prompts) if at >= after), None)
            if at is not None:
                seeks.append((end + at, (index,), True))
                after = at + 1
    return seeks


def tokens(question: Question, prompts: Prompts, names: tuple[str, ...] | None = None) -> Asked:
    """`names` are those of the elements of a mixed scene."""
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
    counted = objects if question.kind.split()[-1] == "count" else None
    seeks = sought(question, names, text, answer, end, prompts) if names is not None else ()
    return Asked(
        question.kind,
        (*given, *answer),
        len(given),
        (*answer, prompts.end),
        tuple(thoughts),
        counted,
        tuple(seeks),
    )


def made(file: Path, first_seed: int, n: int, per_scene: int, workers: int) -> dict[str, Any]:
    """The scenes of consecutive seeds, from `file` if a run has written it."""
    return stored(file, _make_some, first_seed, n, per_scene, workers)


def shown(file: Path, made: dict[str, Any], prompts: Prompts, tower: Any) -> Pictures:
    """What is `made` as `tower` sees it; `file` keeps that."""
    seen = as_seen(file, made.pop("pixels"), tower)
    return Pictures(prompts=prompts, features=seen, **made)


def as_seen(file: Path, pixels: np.ndarray, tower: Any) -> torch.Tensor:
    """What a tower makes of uint8 pictures [n, 3, SIDE, SIDE], float16 [n, PATCHES, width]; `file` keeps it."""
    if not file.exists():
        fresh = file.with_suffix(".new")
        with torch.inference_mode():
            parts = [
                tower(pixel_values=normalise(part)).last_hidden_state[:, 1:].half()
                for part in torch.from_numpy(pixels).split(5)
            ]
        torch.save(torch.cat(parts), fresh)
        fresh.replace(file)
    seen: torch.Tensor = torch.load(file)
    return seen


def stored(
    file: Path,
    make: Callable[[tuple[int, int, int]], dict[str, Any]],
    first: int,
    n: int,
    per_scene: int,
    workers: int,
) -> dict[str, Any]:
    """What `make` gives for (first of 25 at most, how many, questions a picture), joined; `file` keeps it."""
    if not file.exists():
        jobs = [(start, min(25, first + n - start), per_scene) for start in range(first, first + n, 25)]
        if workers == 1:
            parts = list(map(make, jobs))
        else:  # not by a fork: it would break the threads of this process
            with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
                parts = list(pool.map(make, jobs))
        fresh = file.with_suffix(".new")
        torch.save({key: _joined(parts, key) for key in parts[0]}, fresh)
        fresh.replace(file)
    made: dict[str, Any] = torch.load(file, weights_only=False)  # this run's own file
    return made


def _joined(parts: list[dict[str, Any]], key: str) -> Any:
    values = [part[key] for part in parts]
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [item for value in values for item in value]


def _make_some(job: tuple[int, int, int]) -> dict[str, Any]:
    first_seed, n, per_scene = job
    scenes = [render(first_seed + index) for index in range(n)]
    owner = np.stack([scene.owner.ravel() for scene in scenes]).astype(np.int8)
    central = np.zeros((n, PATCHES), dtype=bool)
    for row, scene in enumerate(scenes):
        for x, y in (item.center for item in scene.objects):
            central[row, int(y) // PATCH * GRID + int(x) // PATCH] = True
    pixels = np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene in scenes])
    return {
        "pixels": pixels,
        "owner": owner,
        "central": central,
        "objects": [scene.objects for scene in scenes],
        "questions": [questions(scene, per_scene) for scene in scenes],
    }
