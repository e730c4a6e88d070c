"""Scenes as training data: pixels, what is true of every patch, and tokenised questions."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from sparsesight.scenes.questions import DIRECTIONS, Question, plural
from sparsesight.scenes.scenes import (
    GRID,
    KINDS,
    MAX_COUNT,
    PATCH,
    PLAIN,
    SIDE,
    SINGLE_OBJECT,
    questions,
    render,
)

from .blueprint import COLUMNS, GROUND, MIDDLE, ROWS, WORD_ID, WORD_PATTERN

PATCHES = GRID * GRID
SLOT = 20  # tokens that a question and its answer may take
PROMPT = [WORD_ID["<s>"], WORD_ID["USER"], WORD_ID[":"]]  # what stands before the picture
KIND_NAMES = list(KINDS)
WORDS_PER_PATCH = 10
MAX_OBJECTS = PLAIN.objects[1]
THOUGHTS = MAX_OBJECTS + MAX_COUNT + 1
WAYS = tuple(way.split()[0] for way in DIRECTIONS)


@dataclass
class Texts:
    """What is said about `n` scenes, `k` times each."""

    tokens: np.ndarray  # uint8 [n, k, SLOT]: what is given and what is to be said, closed by </s>
    given: np.ndarray  # uint8 [n, k]: tokens of what is given, such as a question
    length: np.ndarray  # uint8 [n, k]: tokens in all
    kind: np.ndarray  # uint8 [n, k]: index into KIND_NAMES; of no meaning for captions
    sought: np.ndarray  # int8 [n, k]: the object that all tokens after a name have to find to say it, or -1
    thought: np.ndarray  # int8 [n, k, SLOT]: what a token should bring to mind, a row of Scenes.about, or -1

    @classmethod
    def empty(cls, n: int, k: int) -> Texts:
        arrays = (np.zeros(shape, dtype=np.uint8) for shape in ((n, k, SLOT), (n, k), (n, k), (n, k)))
        none = np.full((n, k, SLOT), -1, dtype=np.int8)
        return cls(*arrays, sought=none[..., 0].copy(), thought=none)

    def put(self, row: int, slot: int, given: list[int], said: list[int]) -> None:
        whole = [*given, *said, WORD_ID["</s>"]]
        self.tokens[row, slot, : len(whole)] = whole
        self.given[row, slot], self.length[row, slot] = len(given), len(whole)


@dataclass
class Scenes:
    """`n` scenes, one row each."""

    pixels: np.ndarray  # uint8 [n, 3, SIDE, SIDE]; empty once the visual tokens are made
    owner: np.ndarray  # int8 [n, PATCHES]: the object that owns a patch, or -1
    central: np.ndarray  # bool [n, PATCHES]: an object's centre lies in this patch
    words: np.ndarray  # uint8 [n, PATCHES, WORDS_PER_PATCH]: ids true of the patch, 0 where there are fewer
    place: np.ndarray  # float32 [n, PATCHES, 2]: centre of the owner, x and y from -1 to 1
    about: (
        np.ndarray
    )  # uint8 [n, MAX_OBJECTS, WORDS_PER_PATCH]: ids true of each object, 0 where there are fewer
    questions: Texts
    captions: Texts

    def __len__(self) -> int:
        return len(self.owner)


def token_ids(text: str) -> list[int]:
    """The ids that the tokenizer gives to a text, without <s>."""
    return [WORD_ID[word] for word in re.findall(WORD_PATTERN, text)]


def make(first_seed: int, n: int, per_scene: int, workers: int) -> Scenes:
    """Render `n` scenes from consecutive seeds in worker processes, in order.

    `per_scene` questions are asked about each; there are as many captions, the words of an object in any order.
    """
    jobs = [
        (seed, min(50, first_seed + n - seed), per_scene) for seed in range(first_seed, first_seed + n, 50)
    ]
    with ProcessPoolExecutor(workers) as pool:
        return _join(list(pool.map(_make_some, jobs)))


def _join(parts: list[Any]) -> Any:
    """Rows of parts put together, in nested dataclasses of arrays."""
    if not is_dataclass(parts[0]):
        return np.concatenate(parts)
    return type(parts[0])(*(_join([getattr(part, f.name) for part in parts]) for f in fields(parts[0])))


def _make_some(job: tuple[int, int, int]) -> Scenes:
    first_seed, n, per_scene = job
    made = Scenes(
        pixels=np.zeros((n, 3, SIDE, SIDE), dtype=np.uint8),
        owner=np.zeros((n, PATCHES), dtype=np.int8),
        central=np.zeros((n, PATCHES), dtype=bool),
        words=np.zeros((n, PATCHES, WORDS_PER_PATCH), dtype=np.uint8),
        place=np.zeros((n, PATCHES, 2), dtype=np.float32),
        about=np.zeros((n, THOUGHTS, WORDS_PER_PATCH), dtype=np.uint8),
        questions=Texts.empty(n, per_scene),
        captions=Texts.empty(n, per_scene),
    )
    for row in range(n):
        scene = render(first_seed + row)
        rng = np.random.default_rng([first_seed + row, 3])
        made.pixels[row] = np.asarray(scene.image).transpose(2, 0, 1)
        owner = made.owner[row] = scene.owner.ravel()
        made.words[row, owner < 0, 0] = WORD_ID[GROUND]
        made.about[row, MAX_OBJECTS:, 0] = [WORD_ID[str(number)] for number in range(MAX_COUNT + 1)]
        descriptions = []
        for index, item in enumerate(scene.objects):
            mine = owner == index
            x, y = item.center
            side = ["left" if x < SIDE / 2 else "right", "top" if y < SIDE / 2 else "bottom"]
            cell = [COLUMNS[item.cell[0]], ROWS[item.cell[1]]]
            words = [
                WORD_ID[word] for word in (item.shape, item.color, item.size, *side, *cell, *item.letter)
            ]
            made.words[row, mine, : len(words) + 1] = [*words, WORD_ID[plural(item.shape)]]
            made.place[row, mine] = [2 * x / SIDE - 1, 2 * y / SIDE - 1]
            central = int(y) // PATCH * GRID + int(x) // PATCH
            made.central[row, central] = True
            made.words[row, central, len(words) + 1] = WORD_ID[MIDDLE]
            made.about[row, index, : len(words)] = words
            descriptions.append(words)
        for slot in range(per_scene):
            words = rng.permutation(descriptions[rng.integers(len(descriptions))]).tolist()
            made.captions.put(row, slot, [WORD_ID["\n"]], words)
        for slot, question in enumerate(questions(scene, per_scene)):
            made.questions.put(
                row, slot, token_ids(f"\n{question.text} ASSISTANT:"), token_ids(question.answer)
            )
            made.questions.kind[row, slot] = KIND_NAMES.index(question.kind)
            if question.kind == "neighbor":
                made.questions.sought[row, slot] = question.objects[1]
            for place, index in _thoughts(question):
                made.questions.thought[row, slot, place] = index
    return made


def _thoughts(question: Question) -> list[tuple[int, int]]:
    """What the tokens of a question should bring to mind: (place of the token, row of `Scenes.about`).

    A name brings to mind the object it means; the end of a question about a neighbour, that neighbour; all that
    follows what is counted, the number.
    """
    tokens = token_ids(f"\n{question.text} ASSISTANT")
    name, mark, closing = len(tokens) - 3, len(tokens) - 2, len(tokens) - 1
    objects = question.objects
    if question.kind in SINGLE_OBJECT:
        return [(place, objects[0]) for place in (name, mark, closing)]
    if question.kind == "exist" and len(objects) == 1:
        return [(name, objects[0])]
    if question.kind == "neighbor":
        return [(name, objects[0]), (mark, objects[1]), (closing, objects[1])]
    if question.kind == "compare":
        first = min(tokens.index(WORD_ID[way]) for way in WAYS if WORD_ID[way] in tokens) - 1
        return [(first, objects[0]), (name, objects[1])]
    if question.kind == "count":
        number = MAX_OBJECTS + len(objects)
        return [(place, number) for place in range(tokens.index(WORD_ID["are"]), closing + 1)]
    return []
