"""Rendered clips: a scene in which one object after the other moves, leaves or comes, and questions about it.

    for example in examples("test"):
        example.frames, example.question.text, example.question.answer

A clip has `FRAMES` frames, and one event between each and the next. Questions of the kinds in `STATIC` are about
objects that no event touches, in the words of `.questions`; those in `TEMPORAL` need several frames, in their order. A
split's name and `VERSION` together define its content exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
from PIL import Image

from .drawing import SIDE, Rng, background
from .objects import CELL, CELLS, Recipe, SceneObject, arrange, pick, sample
from .questions import Question, ask_color, ask_exist, ask_letter, ask_shape, ask_where
from .scenes import draw, paint_object
from .splits import Seeds, choose, in_order

VERSION = 1  # raised whenever a seed would give another clip or other questions
FRAMES = 4
RECIPE = Recipe(objects=(12, 16))  # the other cells are free for what moves

SPLITS = {
    split.name: split
    for split in (
        Seeds("val", 200_000_000, 60, "for choices made while training"),
        Seeds("test", 210_000_000, 60, "the figures that are reported"),
        Seeds("test-b", 220_000_000, 60, "as test, from other seeds: to check that a result is not luck"),
    )
}

_STATIC = {
    "color": ask_color,
    "shape": ask_shape,
    "letter": ask_letter,
    "where": ask_where,
    "exist": ask_exist,
}
STATIC = tuple(_STATIC)
TEMPORAL = ("first", "which", "times", "after")


@dataclass(frozen=True)
class Event:
    """What happens between two frames: the object of an index "moves", "leaves" or "appears"."""

    index: int
    what: str


@dataclass(frozen=True, eq=False)
class Clip:
    """Objects (as in the first frame in which each is there), events, and what each frame shows.

    Attributes:
        seed: of the clip.
        objects: all that are ever there.
        events: one fewer than there are frames.
        shown: per frame, the objects that are there, by their index in `objects`.
        frames: RGB, 336 x 336 pixels each.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    events: tuple[Event, ...]
    shown: tuple[dict[int, SceneObject], ...]
    frames: tuple[Image.Image, ...]

    def is_still(self, index: int) -> bool:
        """Whether every frame shows an object at the same place."""
        return all(frame.get(index) == self.objects[index] for frame in self.shown)

    def said(self, event: Event) -> str:
        """An event in words."""
        return f"the {self.objects[event.index].name} {event.what}"


@dataclass(frozen=True, eq=False)
class Example:
    """A question about a clip."""

    id: str
    clip: Clip
    question: Question

    @property
    def frames(self) -> tuple[Image.Image, ...]:
        """The frames in their order."""
        return self.clip.frames


def render(seed: int) -> Clip:
    """The clip of a seed (0 to 2**32 - 1): the same events and the same pixels every time."""
    rng = Rng([seed, 10])
    objects = arrange(rng, RECIPE)
    names = Counter(item.name for item in objects)
    actors = [i for i, item in enumerate(objects) if names[item.name] == 1]
    actors = sample(rng, actors, min(3, len(actors)))
    free = [(x, y) for x in range(CELLS) for y in range(CELLS) if (x, y) not in {o.cell for o in objects}]
    free = sample(rng, free, len(free))
    late = {actors[0]} if rng.randint(2) else set()  # one object may come only later
    now = {i: item for i, item in enumerate(objects) if i not in late}
    events, shown = [], [dict(now)]
    for _ in range(FRAMES - 1):
        options = [Event(i, "appears") for i in sorted(late)]
        options += [Event(i, what) for i in actors if i in now for what in ("moves", "moves", "leaves")]
        event = pick(rng, options)
        if event.what == "leaves":
            del now[event.index]
            actors.remove(event.index)  # it does not come back
        elif event.what == "appears":
            late.discard(event.index)
            now[event.index] = objects[event.index]
        else:
            cell, before = free.pop(0), now[event.index]
            now[event.index] = _moved(before, cell)
            free.append(before.cell)
        events.append(event)
        shown.append(dict(now))
    frames = tuple(_paint(seed, number, frame) for number, frame in enumerate(shown))
    return Clip(seed, objects, tuple(events), tuple(shown), frames)


def _moved(item: SceneObject, cell: tuple[int, int]) -> SceneObject:
    """The object at the same place within another cell."""
    (x, y), (a, b) = item.cell, cell
    return replace(item, cell=cell, left=item.left + CELL * (a - x), top=item.top + CELL * (b - y))


def _paint(seed: int, number: int, objects: dict[int, SceneObject]) -> Image.Image:
    """A frame: ground and shades are those of the clip, noise is its own."""
    canvas = background(Rng([seed, 11]))
    for index, item in objects.items():
        paint_object(canvas, item, Rng([seed, 12, index]))
    canvas += Rng([seed, 13, number]).randint(-6, 7, size=(SIDE, SIDE, 1))
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def questions(clip: Clip) -> dict[str, list[tuple[float, Question]]]:
    """Per kind, all the unambiguous questions about a clip, with their weights."""
    asked = {kind: _static(clip, kind) for kind in STATIC}
    return {**asked, **{kind: [(1.0, question) for question in _temporal(clip, kind)] for kind in TEMPORAL}}


def _static(clip: Clip, kind: str) -> list[tuple[float, Question]]:
    """Questions whose answer is the same in every frame."""
    return [x for x in _STATIC[kind](clip.objects) if all(clip.is_still(i) for i in x[1].objects)]


def _temporal(clip: Clip, kind: str) -> Iterator[Question]:
    events, names = clip.events, [item.name for item in clip.objects]
    if kind == "first":
        moved = [event.index for event in events if event.what == "moves"]
        if len(set(moved)) > 1:
            yield Question(kind, "Which object moves first?", names[moved[0]], (moved[0],))
    elif kind == "which":
        for what in ("leaves", "appears"):
            some = [event.index for event in events if event.what == what]
            if len(some) == 1:
                yield Question(kind, f"Which object {what}?", names[some[0]], (some[0],))
    elif kind == "times":
        moves = Counter(event.index for event in events if event.what == "moves")
        still = [i for i, name in enumerate(names) if names.count(name) == 1 and clip.is_still(i)][:1]
        for index in [*moves, *still]:
            yield Question(kind, f"How many times does the {names[index]} move?", str(moves[index]), (index,))
    else:
        said = [clip.said(event) for event in events]
        for number, (before, after) in enumerate(pairwise(said)):
            if said.count(before) == 1:
                indices = tuple(dict.fromkeys(event.index for event in events[number : number + 2]))
                yield Question(kind, f"What happens after {before}?", after, indices)


def examples(split: str, clips: int | None = None, workers: int = 1) -> Iterator[Example]:
    """The examples of a split in their fixed order: of each clip one question of every kind that it offers.

    Args:
        split: one of `SPLITS`.
        clips: number of clips, the first ones; default: all.
        workers: processes that render; with 1, this process does.

    Raises:
        SparseSightError: no such split, or it has fewer clips, or fewer than one worker.
    """
    chosen, wanted = choose(SPLITS, split, clips, workers)
    return in_order(partial(_examples_of, chosen), wanted, workers)


def _examples_of(split: Seeds, index: int) -> list[Example]:
    clip = render(split.first_seed + index)
    rng, asked = Rng([clip.seed, 14]), list[Question]()
    for weighted in questions(clip).values():
        if weighted:
            asked.append(weighted[draw(rng, [weight for weight, _ in weighted])][1])
    return [Example(f"{split.name}/{index:04d}/{i}", clip, question) for i, question in enumerate(asked)]
