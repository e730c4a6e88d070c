"""Names of things and words: what is held out, how names are bent, and the pins of what they are drawn from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsesight import SparseSightError
from sparsesight.scenes.mixed import packages
from sparsesight.scenes.mixed.fonts import HELD_OUT_FACES, KNOWN_FACES
from sparsesight.scenes.mixed.things import HELD_OUT, KNOWN, NAMES, THINGS, plural, with_article
from sparsesight.scenes.mixed.words import HELD_OUT_WORDS, KNOWN_WORDS, WORDS, short

ROOT = Path(__file__).resolve().parents[3]


def test_there_are_hundreds_of_things_and_none_twice() -> None:
    assert len(THINGS) == len(NAMES) == len({thing.code for thing in THINGS}) >= 300
    assert all(re.fullmatch("[a-z]+", thing.name) for thing in THINGS)


def test_what_is_held_out_is_held_out() -> None:
    assert {*KNOWN} | {*HELD_OUT} == {*THINGS} and not {*KNOWN} & {*HELD_OUT}
    assert 0.1 < len(HELD_OUT) / len(THINGS) < 0.2
    assert {thing.category for thing in HELD_OUT} == {thing.category for thing in THINGS}
    assert {*KNOWN_WORDS} | {*HELD_OUT_WORDS} == {*WORDS} and not {*KNOWN_WORDS} & {*HELD_OUT_WORDS}
    assert len(WORDS) == len({*WORDS}) >= 450
    assert not {*WORDS} & NAMES  # or a word in training could name a thing that is held out
    # A held-out font shares no package, and so no family, with another.
    assert not {face.package for face in KNOWN_FACES} & {face.package for face in HELD_OUT_FACES}


def test_there_are_enough_short_words_for_charts_and_tables() -> None:
    assert len(short(HELD_OUT_WORDS)) >= 40 and max(map(len, short(WORDS))) == 5


@pytest.mark.parametrize(
    ("name", "one", "several"),
    [
        ("lion", "a lion", "lions"),
        ("apple", "an apple", "apples"),
        ("umbrella", "an umbrella", "umbrellas"),
        ("unicorn", "a unicorn", "unicorns"),
        ("mouse", "a mouse", "mice"),
        ("strawberry", "a strawberry", "strawberries"),
        ("monkey", "a monkey", "monkeys"),
        ("torch", "a torch", "torches"),
        ("sheep", "a sheep", "sheep"),
        ("bread", "bread", None),
    ],
)
def test_names_are_bent(name: str, one: str, several: str | None) -> None:
    assert (with_article(name), plural(name)) == (one, several)


def test_the_extra_installs_what_is_drawn_from() -> None:
    extra = re.search(r"^scenes = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert extra is not None
    wanted = dict(re.findall(r'"([a-z0-9-]+)[=>]=([0-9.]+)"', extra[1]))
    assert wanted.keys() == packages.PINS.keys()
    assert {name: pin for name, pin in packages.PINS.items() if pin} == {
        name: wanted[name] for name, pin in packages.PINS.items() if pin
    }
    assert {face.package for face in (*KNOWN_FACES, *HELD_OUT_FACES)} < wanted.keys()


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"no-such-icons": "1"}, r"no-such-icons is not installed: pip install 'sparsesight\[scenes\]'"),
        ({"numpy": "0.1"}, r"from numpy 0.1, and .* is installed.*pip install 'sparsesight\[scenes\]'"),
    ],
)
def test_without_the_packages_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, pins: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(packages, "PINS", pins)
    packages.check_installed.cache_clear()
    try:
        with pytest.raises(SparseSightError, match=message):
            packages.check_installed()
    finally:
        packages.check_installed.cache_clear()
