"""The splits: disjoint seeds, what is held out stays out, a question of every kind, and training pictures."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest

from sparsesight import SparseSightError
from sparsesight.scenes.dataset import SPLITS as SHAPE_SPLITS
from sparsesight.scenes.mixed import canvas, signs
from sparsesight.scenes.mixed.dataset import (
    PICTURES,
    SHARES,
    SPLITS,
    Example,
    examples,
    picture_of,
    questions,
)
from sparsesight.scenes.mixed.fonts import HELD_OUT_FACES, Face, line
from sparsesight.scenes.mixed.things import HELD_OUT
from sparsesight.scenes.mixed.words import HELD_OUT_WORDS

HELD_OUT_NAMES = {thing.name for thing in HELD_OUT} | {*HELD_OUT_WORDS}


def test_no_two_splits_share_a_seed() -> None:
    everything = [*SPLITS.values(), *SHAPE_SPLITS.values()]
    for one, other in combinations(everything, 2):
        first, second = sorted((one, other), key=lambda split: split.first_seed)
        assert first.first_seed + first.scenes <= second.first_seed, (one.name, other.name)
    assert all(split.first_seed + split.scenes <= 2**32 for split in everything)


def test_pools_of_training_have_nothing_that_is_held_out() -> None:
    for name in ("train", "val", "test", "test-b"):
        pool = SPLITS[name].pool
        assert not {thing.name for thing in pool.things} & {thing.name for thing in HELD_OUT}
        assert not {*pool.words} & {*HELD_OUT_WORDS} and not {*pool.faces} & {*HELD_OUT_FACES}
    assert {*SPLITS["new-things"].pool.things} == {*HELD_OUT}
    assert {*SPLITS["new-words"].pool.words} == {*HELD_OUT_WORDS}
    assert {*SPLITS["new-fonts"].pool.faces} == {*HELD_OUT_FACES}


@pytest.fixture(scope="module")
def trained(drawable: None) -> list[Example]:
    return list(examples("train", scenes=15))


def test_what_is_held_out_never_occurs_in_training(trained: list[Example]) -> None:
    for example in trained:
        names = {element.name for element in example.picture.elements}
        answer = {*re.findall("[a-z]+", example.question.answer.lower())}
        text = {*re.findall("[a-z]+", example.question.text.lower())}
        quoted = {*re.findall('"([a-z]+)"', example.question.text)}
        assert not (names | answer | quoted) & HELD_OUT_NAMES, example.id
        assert not text & {thing.name for thing in HELD_OUT}, example.id


def test_training_writes_in_its_own_fonts_only(drawable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[Face] = set()

    def watch(text: str, face: Face, size: int) -> object:
        used.add(face)
        return line(text, face, size)

    monkeypatch.setattr(canvas, "line", watch)
    monkeypatch.setattr(signs, "line", watch)
    for index in range(15):
        picture_of(SPLITS["train"], index)
    assert len(used) > 3 and not used & {*HELD_OUT_FACES}


def test_training_pictures_have_many_questions_all_different(trained: list[Example]) -> None:
    by_picture = Counter(example.picture.seed for example in trained)
    assert max(by_picture.values()) == 32 and min(by_picture.values()) >= 12
    assert len({(one.picture.seed, one.question.text) for one in trained}) == len(trained)
    first = trained[0].picture
    pool = SPLITS["train"].pool
    assert questions(first, pool, 5) == questions(first, pool, 9)[:5]


@pytest.mark.parametrize("split", ["test", "new-things", "new-fonts", "new-words"])
def test_a_picture_is_asked_one_question_of_a_kind(drawable: None, split: str) -> None:
    found = list(examples(split, scenes=10))
    kinds = Counter((example.picture.seed, example.question.kind) for example in found)
    assert max(kinds.values()) == 1 and len(found) >= 45
    assert {example.question.kind for example in found} <= SHARES.keys()
    assert len({example.id for example in found}) == len(found)
    assert {example.picture.kind for example in found} == {*SPLITS[split].kinds}
    assert {*SPLITS["test"].kinds} == {*PICTURES}
    for example in found:
        elements = [example.picture.elements[index] for index in example.question.objects]
        assert example.size == (elements[0].size if elements else "none")
        assert bool(elements) == bool(example.patches.any())


def test_answering_without_the_picture_does_not_pay(drawable: None) -> None:
    found = list(examples("test", scenes=45))
    most = dict.fromkeys(("which", "more", "both", "exist", "compare", "size"), 0.55)
    for kind in {example.question.kind for example in found}:
        answers = Counter(one.question.answer for one in found if one.question.kind == kind)
        few = answers.total() ** -0.5  # the share of an answer may be larger by chance
        assert max(answers.values()) <= (most.get(kind, 0.5) + few) * answers.total(), (kind, answers)


def test_workers_change_nothing(drawable: None) -> None:
    alone, shared = (
        [(one.id, one.question, one.images[0].tobytes()) for one in examples("val", 6, workers)]
        for workers in (1, 2)
    )
    assert alone == shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "split='tset' .*train, val, test, test-b, new-things, new-fonts, new-words"),
        ({"split": "val", "scenes": 151}, "scenes=151 .*150"),
        ({"split": "val", "workers": 0}, "workers=0 "),
    ],
)
def test_what_is_impossible_is_refused_at_the_call(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        examples(**arguments)  # type: ignore[arg-type] # not even asked for the first example
