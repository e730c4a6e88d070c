"""Questions about scenes of icons; every function yields all the unambiguous questions of its kind, with weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..questions import MAX_COUNT, Question, Weighted, compare, neighbor, where
from .picture import Asked, Element, Picture, Pool, unique
from .things import CATEGORIES, plural, with_article
from .wording import box_in_words, in_a_row, place_of, point_at, shows

ADVERSARIAL = 0.6  # the share of absent things that are of a category that is there


def ask(picture: Picture, pool: Pool) -> Asked:
    """All questions about a scene of icons, by kind."""
    elements = picture.elements
    named = unique(elements, "icon", "card")
    return {
        "color": list(ask_color(elements)),
        "shape": list(ask_shape(elements)),
        "size": [(1, Question("size", f"What size is the {n}?", e.size, (i,))) for i, e, n in named],
        "letter": list(ask_letter(elements)),
        "where": list(where(named)),
        "exist": list(ask_exist(elements, pool)),
        "count": list(ask_count(elements)),
        "neighbor": list(neighbor(elements, named)),
        "compare": list(compare(named)),
        "name": list(ask_name(picture)),
        "describe": list(ask_describe(picture)),
        "point": [(1, point_at(f"the {n}", box_in_words(e.box), i)) for i, e, n in named],
    }


def ask_color(elements: Sequence[Element]) -> Weighted:
    for index, element, name in unique(elements, "icon"):
        if element.shape:
            yield 1, Question("color", f"What color is behind the {name}?", element.color, (index,))


def ask_shape(elements: Sequence[Element]) -> Weighted:
    for index, element, name in unique(elements, "icon"):
        if element.shape:
            yield 1, Question("shape", f"What shape is behind the {name}?", element.shape, (index,))


def ask_letter(elements: Sequence[Element]) -> Weighted:
    for index, element, name in unique(elements, "card"):
        yield 1, Question("letter", f"What letter is on the {name}?", element.text, (index,))


def ask_name(picture: Picture) -> Weighted:
    """By place, and by the plate that the thing lies on."""
    elements = picture.elements
    plates = Counter((e.color, e.shape) for e in elements if e.kind == "icon" and e.shape)
    for index, element in enumerate(elements):
        place = place_of(element.cell, picture.layout)
        if place is not None:
            yield 1, Question("name", f"What is {place}?", element.name, (index,))
        if element.kind == "icon" and plates[element.color, element.shape] == 1:
            text = f"What is on the {element.color} {element.shape}?"
            yield 1, Question("name", text, element.name, (index,))


def ask_exist(elements: Sequence[Element], pool: Pool) -> Weighted:
    """As much "yes" as "no"; most absent things are of a category that is there, as POPE's adversarial ones.

    (Li et al., arXiv:2305.10355, section 5.1, whose adversarial objects are those that often occur together.)
    """
    icons = [(index, e) for index, e in enumerate(elements) if e.kind == "icon"]
    shown = Counter(e.name for _, e in icons)
    for name, times in shown.items():
        them = tuple(index for index, e in icons if e.name == name)
        yield times / len(icons), Question("exist", is_there(name), "yes", them)
    absent = [thing for thing in pool.things if thing.name not in shown]
    near = {e.category for _, e in icons}
    similar = sum(thing.category in near for thing in absent)
    for thing in absent:
        share = (
            ADVERSARIAL / similar if thing.category in near else (1 - ADVERSARIAL) / (len(absent) - similar)
        )
        yield share, Question("exist", is_there(thing.name), "no", ())


def is_there(name: str) -> str:
    return f"Is there {with_article(name)} in the picture?"


def ask_count(elements: Sequence[Element]) -> Weighted:
    """By name and by category; every number that the scene offers is as likely as every other."""
    shown: dict[str, tuple[int, ...]] = {}
    for category, phrase in CATEGORIES.items():
        shown[phrase] = tuple(i for i, e in enumerate(elements) if e.category == category)
    for name in dict.fromkeys(e.name for e in elements if e.kind == "icon"):
        several = plural(name)
        if several is not None:
            shown[several] = tuple(i for i, e in enumerate(elements) if e.name == name)
    rivals = Counter(len(indices) for indices in shown.values())
    for phrase, indices in shown.items():
        if len(indices) <= MAX_COUNT:
            text = f"How many {phrase} are there?"
            yield 1 / rivals[len(indices)], Question("count", text, str(len(indices)), indices)


def ask_describe(picture: Picture) -> Weighted:
    """A row of one to four things, in a sentence."""
    elements = picture.elements
    for row, phrase in in_a_row(picture.layout[1]):
        shown = sorted((e.cell[0], index) for index, e in enumerate(elements) if e.cell[1] == row)
        indices = tuple(index for _, index in shown)
        if indices:
            sentence = shows(phrase, [with_article(elements[index].name) for index in indices])
            yield 1, Question("describe", f"Describe the {phrase} in a sentence.", sentence, indices)
