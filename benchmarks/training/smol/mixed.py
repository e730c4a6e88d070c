"""Mixed scenes as the language model's training data: the words of every patch, questions as tokens, pairs as one row.

The two pictures of a pair stand one after the other, with a line break between them, as a user's prompt has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsesight.scenes.mixed.dataset import SPLITS, picture_of, questions
from sparsesight.scenes.mixed.picture import Element, Picture
from sparsesight.scenes.scenes import GRID, PATCH, SIDE

from . import pictures
from .pictures import PATCHES, Pictures, as_seen
from .projector import CARDINALS, GROUND, ORDINALS, SCALE
from .prompts import Prompts

BETWEEN = PATCHES  # the place of the line break in a row of two pictures
CALLED = {"tick": "number", "bar": "bar", "point": "line"}  # what a kind of element is called on its patches


def spoken(element: Element) -> list[tuple[str, float]]:
    """The words that are true of an element's patches, with their weights; numbers are words as well."""
    x, y = element.center
    words = [(element.text or element.name, 1.5)] if element.kind not in ("bar", "point") else []
    if element.kind == "card":
        words.append(("card", 1.0))
    elif element.kind in CALLED:
        words += [(str(element.value), 1.0), (CALLED[element.kind], 0.5)]
    words += [(word, 1.0) for word in (element.color, element.shape) if word and word != "card"]
    words += [(element.size, 0.7)] if element.kind in ("icon", "card") else []
    words += [("left" if x < SIDE / 2 else "right", 0.5), ("top" if y < SIDE / 2 else "bottom", 0.5)]
    column, row = element.cell
    words += [(ORDINALS[column], 0.7)]
    return words + ([(CARDINALS[row], 0.7)] if row < len(CARDINALS) else [])


def pieces(words: list[tuple[str, float]], prompts: Prompts) -> list[tuple[int, float, int]]:
    """Words as tokens (id, weight, turn): those after a word's first are turned, so that a sum keeps their order."""
    found = []
    for word, weight in words:
        ids = prompts.answer(word)
        share = weight / len(ids) ** 0.5
        found += [(token, share, place) for place, token in enumerate(ids)]
    return found


TURN = 41  # columns by which the n-th token of a word is turned, n times


def summed(told: list[tuple[int, float, int]], own: torch.Tensor) -> torch.Tensor:
    """The sum of tokens' own embeddings [vocabulary, width], each turned by its place in its word."""
    total = torch.zeros_like(own[0])
    for token, weight, place in told:
        total = total + weight * own[token].roll(TURN * place)
    return total


def pixels_of(pictures: list[Picture]) -> np.ndarray:
    """All images as uint8 [images, 3, SIDE, SIDE]."""
    images = [image for picture in pictures for image in picture.images]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])


def places(rows: np.ndarray, between: Any) -> np.ndarray:
    """Per-patch values [images, PATCHES, ...] of one prompt as its places: [places, ...]."""
    if len(rows) == 1:
        return rows[0]
    gap = np.full((1, *rows.shape[2:]), between, dtype=rows.dtype)
    return np.concatenate([rows[0], gap, rows[1]])


def stored(folder: Path, split: str, n: int, per_scene: int, workers: int) -> dict[str, Any]:
    """The first `n` pictures of a split with up to `per_scene` questions each; `folder` keeps them."""
    make = partial(_make_some, split)
    return pictures.stored(folder / f"{split}-mixed.pt", make, 0, n, per_scene, workers)


def some(made: dict[str, Any], kinds: Sequence[str], n: int | None = None) -> dict[str, Any]:
    """Of what is `made` the pictures of these kinds, at most the first `n`."""
    many = made["images"]
    rows = [row for row, asked in enumerate(made["questions"]) if asked[0].kind.split()[0] in kinds][:n]
    ends = many.cumsum()
    images = np.concatenate([np.arange(ends[row] - many[row], ends[row]) for row in rows])
    by_image, by_row = ("pixels", "owner", "central"), ("questions", "elements")
    return {
        **{key: made[key][images] for key in by_image},
        **{key: [made[key][row] for row in rows] for key in by_row},
        "images": many[rows],
    }


def shown(file: Path, made: dict[str, Any], prompts: Prompts, images: int, tower: Any) -> Pictures:
    """The prompts with so many images of what is `made`, as `tower` sees them; `file` keeps that."""
    seen = as_seen(file, made["pixels"], tower).numpy()
    data, chosen = _prompts(made, prompts, images)
    data.features = torch.from_numpy(np.stack([places(seen[own], 0) for _, own in chosen]))
    return data


def ideal(made: dict[str, Any], prompts: Prompts, images: int, own: torch.Tensor) -> Pictures:
    """The prompts with so many images of what is `made`, as their patches should look."""
    data, chosen = _prompts(made, prompts, images)
    data.ideal = [looks(made["elements"][row], prompts, own).half() for row, _ in chosen]
    return data


def looks(elements: Any, prompts: Prompts, own: torch.Tensor) -> torch.Tensor:
    """How the patches of every element should look, and those of none: [elements + 1, width]."""
    told = [*(spoken(element) for element in elements), [(GROUND, 1.0)]]
    return SCALE * torch.stack([summed(pieces(words, prompts), own) for words in told])


def _prompts(made: dict[str, Any], prompts: Prompts, images: int) -> tuple[Pictures, list[tuple[int, slice]]]:
    """The prompts without their features; and of each the picture and its images."""
    many = made["images"]
    first = np.cumsum(many) - many  # image of each picture
    chosen = [(int(row), slice(first[row], first[row] + images)) for row in np.flatnonzero(many == images)]
    data = Pictures(
        features=torch.empty(0),
        owner=np.stack([places(made["owner"][own], -1) for _, own in chosen]),
        central=np.stack([places(made["central"][own], True) for _, own in chosen]),
        objects=[() for _ in chosen],
        questions=[made["questions"][row] for row, _ in chosen],
        prompts=prompts,
        names=[tuple(element.name for element in made["elements"][row]) for row, _ in chosen],
    )
    return data, chosen


def _make_some(split: str, job: tuple[int, int, int]) -> dict[str, Any]:
    """Images one after the other, pairs as two, and the number of images of each picture."""
    first, n, per_scene = job
    pictures = [picture_of(SPLITS[split], first + index) for index in range(n)]
    return {
        "pixels": pixels_of(pictures),
        "owner": np.concatenate([picture.owner.reshape(-1, PATCHES) for picture in pictures]).astype(np.int8),
        "central": np.concatenate([middles(picture) for picture in pictures]),
        "images": np.array([len(picture.images) for picture in pictures]),
        "elements": [picture.elements for picture in pictures],
        "questions": [
            [
                replace(one, kind=f"{picture.kind} {one.kind}")
                for one in questions(picture, SPLITS[split].pool, per_scene)
            ]
            for picture in pictures
        ],
    }


def middles(picture: Picture) -> np.ndarray:
    """The patches in which an element's middle lies: bool [images, PATCHES]."""
    found = np.zeros((len(picture.images), PATCHES), dtype=bool)
    for element in picture.elements:
        x, y = (min(int(edge), SIDE - 1) // PATCH for edge in element.center)
        found[element.picture, y * GRID + x] = True
    return found
