"""Rendered clips: the same from a seed, what frames show, and questions with their answers, followed by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sparsesight import SparseSightError
from sparsesight.eval.clip_scenes import ANY, SEVERAL, clip_items, static_items
from sparsesight.scenes import clips
from sparsesight.scenes.clips import FRAMES, STATIC, TEMPORAL, Clip, Event, questions, render
from sparsesight.scenes.objects import CELL, SceneObject

SEEDS = range(210_000_000, 210_000_012)


@pytest.fixture(scope="module")
def made() -> list[Clip]:
    return [render(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_pixels(made: list[Clip]) -> None:
    """The sum of all pixels of a frame is recorded: what changes it has to raise VERSION."""
    again = render(SEEDS[0])
    assert again.events == made[0].events and again.objects == made[0].objects
    sums = [int(np.asarray(frame, dtype=np.int64).sum()) for frame in again.frames]
    assert sums == [int(np.asarray(frame, dtype=np.int64).sum()) for frame in made[0].frames]
    assert (clips.VERSION, sums) == (1, RECORDED)


RECORDED = [36822597, 36918456, 36950662, 36949215]


def test_frames_differ_by_one_event_and_noise(made: list[Clip]) -> None:
    """Where objects are the same, frames differ by noise of at most 12; elsewhere the event shows."""
    for clip in made:
        assert len(clip.frames) == len(clip.shown) == FRAMES and len(clip.events) == FRAMES - 1
        for number, event in enumerate(clip.events):
            before, after = clip.shown[number], clip.shown[number + 1]
            changed = {i for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
            assert changed == {event.index}
            assert (event.index in before) == (event.what != "appears")
            assert (event.index in after) == (event.what != "leaves")
            cells = Counter(item.cell for item in after.values())
            assert max(cells.values()) == 1
            a, b = (np.asarray(clip.frames[number + i], dtype=int) for i in (0, 1))
            there = {x.cell for x in (before.get(event.index), after.get(event.index)) if x}
            apart = abs(a - b).max(-1) > 12
            for x, y in there:
                assert apart[CELL * y : CELL * (y + 1), CELL * x : CELL * (x + 1)].any()
                apart[CELL * y : CELL * (y + 1), CELL * x : CELL * (x + 1)] = False
            assert not apart.any()


def made_clip(*events: Event) -> Clip:
    """A clip of three objects without pixels, of which number 2 comes late if it "appears"."""
    kinds = (("circle", "red"), ("star", "blue"), ("star", "green"))
    objects = tuple(
        SceneObject(shape, color, "small", "", (i, 0), CELL * i, 0, 40)
        for i, (shape, color) in enumerate(kinds)
    )
    now = {i: x for i, x in enumerate(objects) if Event(i, "appears") not in events}
    shown = [dict(now)]
    for number, event in enumerate(events):
        if event.what == "leaves":
            del now[event.index]
        else:
            now[event.index] = clips._moved(objects[event.index], (number, 3))
        shown.append(dict(now))
    return Clip(0, objects, events, tuple(shown), ())


def asked(clip: Clip, kind: str) -> dict[str, str]:
    return {question.text: question.answer for _, question in questions(clip)[kind]}


def test_answers_by_hand() -> None:
    clip = made_clip(Event(1, "moves"), Event(0, "moves"), Event(1, "moves"))
    assert asked(clip, "first") == {"Which object moves first?": "blue star"}
    assert asked(clip, "times") == {
        "How many times does the blue star move?": "2",
        "How many times does the red circle move?": "1",
        "How many times does the green star move?": "0",
    }
    # "the blue star moves" happens twice: only what follows the other event is asked.
    assert asked(clip, "after") == {"What happens after the red circle moves?": "the blue star moves"}
    assert asked(clip, "which") == {}
    clip = made_clip(Event(1, "leaves"), Event(2, "appears"), Event(0, "moves"))
    assert asked(clip, "which") == {
        "Which object leaves?": "blue star",
        "Which object appears?": "green star",
    }
    assert asked(clip, "first") == {}  # nothing else moves
    assert asked(clip, "after") == {
        "What happens after the blue star leaves?": "the green star appears",
        "What happens after the green star appears?": "the red circle moves",
    }


def test_static_questions_hold_in_every_frame(made: list[Clip]) -> None:
    for clip in made:
        for kind in STATIC:
            for _, question in questions(clip)[kind]:
                assert all(frame[i] == clip.objects[i] for frame in clip.shown for i in question.objects)
    still = made_clip(Event(1, "moves"), Event(1, "moves"), Event(1, "moves"))
    assert asked(still, "shape") == {"What shape is the green object?": "star"}  # the blue one moves


def test_items_name_their_kind_and_share_a_clip() -> None:
    items, static = clip_items("test", 18), static_items("test", 10)
    assert all(len(item.request) == FRAMES for item in items)
    kinds = {item.tags[0]: item.tags[1] for item in items}
    assert kinds == {kind: ANY if kind in STATIC else SEVERAL for kind in kinds}
    assert kinds.keys() & set(STATIC) and kinds.keys() & set(TEMPORAL)
    assert {item.tags[1] for item in static} == {ANY}
    assert {item.unit for item in items} == {
        f"clips-1/{SEEDS[0] + i}" for i in range(len({x.unit for x in items}))
    }
    with pytest.raises(SparseSightError, match="split='tset' does not exist"):
        list(clips.examples("tset"))
    with pytest.raises(SparseSightError, match="scenes=61 is not possible: 'test' has 60 scenes"):
        list(clips.examples("test", 61))
