"""Two scenes of icons to compare; the second repeats some of the first's things."""

from __future__ import annotations

import numpy as np

from ..drawing import Rng
from ..objects import sample
from ..questions import Question, Weighted
from .icon_scenes import arrange, paint
from .picture import Asked, Element, Picture, Pool
from .things import CATEGORIES, with_article

CELLS = 3
COUNT = (3, 6)  # objects in a picture, both ends included
THINGS = 5  # things that both pictures are drawn from
ORDINALS = ("first", "second")


def draw(seed: int, pool: Pool) -> Picture:
    """Two pictures with three to six objects each, drawn from the same few things."""
    rng = Rng(seed)
    few = sample(rng, pool.things, THINGS)
    elements: list[Element] = []
    for picture in range(2):
        count = int(rng.randint(COUNT[0], COUNT[1] + 1))
        elements += arrange(rng, few, CELLS, count, picture)
    canvases = [paint(rng, elements, picture) for picture in range(2)]
    images = tuple(canvas.image(rng) for canvas in canvases)
    owner = np.stack([canvas.owners(elements, picture) for picture, canvas in enumerate(canvases)])
    return Picture(seed, "pairs", images, tuple(elements), (CELLS, CELLS), owner)


def ask(picture: Picture, pool: Pool) -> Asked:
    """All questions about a pair of pictures, by kind."""
    return {
        "which": list(ask_which(picture)),
        "both": list(ask_both(picture)),
        "more": list(ask_more(picture)),
        "only": list(ask_only(picture)),
        "exist": list(ask_exist(picture)),
    }


def _shown(picture: Picture) -> dict[str, tuple[list[int], list[int]]]:
    """Per name of an icon, the elements of that name in the first and in the second picture."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for index, element in enumerate(picture.elements):
        if element.kind == "icon":
            found.setdefault(element.name, ([], []))[element.picture].append(index)
    return found


def ask_which(picture: Picture) -> Weighted:
    for name, them in _shown(picture).items():
        if bool(them[0]) != bool(them[1]):
            answer = ORDINALS[0 if them[0] else 1]
            text = f"Which picture shows {with_article(name)}, the first or the second?"
            yield 1, Question("which", text, answer, (*them[0], *them[1]))


def ask_both(picture: Picture) -> Weighted:
    """As much "yes" as "no"."""
    shown = _shown(picture)
    common = [name for name, (first, second) in shown.items() if first and second]
    for name, (first, second) in shown.items():
        weight = 1 / len(common) if name in common else 1 / (len(shown) - len(common))
        text = f"Do both pictures show {with_article(name)}?"
        yield weight, Question("both", text, "yes" if name in common else "no", (*first, *second))


def ask_more(picture: Picture) -> Weighted:
    icons = [(index, e) for index, e in enumerate(picture.elements)]
    counted = {"things": tuple(index for index, _ in icons)}
    for category, phrase in CATEGORIES.items():
        counted[phrase] = tuple(index for index, e in icons if e.category == category)
    for phrase, them in counted.items():
        first = sum(picture.elements[index].picture == 0 for index in them)
        second = len(them) - first
        if first != second:
            text = f"Which picture shows more {phrase}, the first or the second?"
            yield 1, Question("more", text, ORDINALS[0 if first > second else 1], them)


def ask_only(picture: Picture) -> Weighted:
    """What one picture shows and the other does not, if it is one thing."""
    shown = _shown(picture)
    everything = tuple(range(len(picture.elements)))
    for here in range(2):
        alone = [name for name, them in shown.items() if them[here] and not them[1 - here]]
        if len(alone) == 1:
            text = f"What is in the {ORDINALS[here]} picture but not in the {ORDINALS[1 - here]}?"
            yield 1, Question("only", text, alone[0], everything)


def ask_exist(picture: Picture) -> Weighted:
    """Of one picture, by what the other shows; as much "yes" as "no"."""
    shown = _shown(picture)
    for here in range(2):
        there = [name for name, them in shown.items() if them[here]]
        for name, them in shown.items():
            weight = 1 / len(there) if name in there else 1 / (len(shown) - len(there))
            text = f"Is there {with_article(name)} in the {ORDINALS[here]} picture?"
            yield weight, Question("exist", text, "yes" if name in there else "no", tuple(them[here]))
