"""Scenes as a task: what is asked, and pictures that are encoded once instead of once for every question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sparsesight.eval.image_task import PictureQuestions
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.records import Item
from sparsesight.eval.scene_task import SceneQuestions, scene_items
from sparsesight.hf.loading import Loaded, load_model
from sparsesight.methods import make_method


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return scene_items("test", 12)


def prompts_of(loaded: Loaded) -> Prompts:
    return Prompts(loaded.processor, choose_setting("own", loaded.name), frames=1, clips=False)


def test_questions_are_of_scenes(items: list[Item]) -> None:
    """A scene's questions are a unit, and are reported by kind, by how many objects they rest on and by size."""
    assert len(items) == 12 and len({item.unit for item in items}) == 2
    assert {
        len({id(item.request) for item in items if item.unit == unit}) for unit in {i.unit for i in items}
    } == {1}
    tags = {tag for item in items for tag in item.tags}
    assert {"color", "count", "neighbor", "single-object", "small", "large"} <= tags
    assert {"rests on one object", "rests on two objects"} <= tags
    assert {"one small object", "one large object"} <= tags


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """How many pictures the vision tower was given, call by call."""
    seen: list[int] = []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "name", [None, pytest.param("sparsevlm", marks=pytest.mark.slow), "visionzip", "divprune"]
)
def test_answers_are_those_of_whole_prompts(loaded: Loaded, items: list[Item], name: str | None) -> None:
    method = None if name is None else make_method(name, retain=64)
    prompts = prompts_of(loaded)
    assert SceneQuestions.suits(loaded, prompts)
    found = []
    for kind in (PictureQuestions, SceneQuestions):
        task = kind("scenes", items, loaded, prompts)
        with task.answering(method) as answer, counted(loaded.model) as pictures:
            found.append([x for start in (0, 5) for x in answer(items[start : start + 5])])
            again = answer(items[:5])
        assert [x.text for x in again] == [x.text for x in found[-1][:5]]
    whole, shared = found
    assert [x.text for x in shared] == [x.text for x in whole]
    assert [x.cost for x in shared] == [x.cost for x in whole]
    # Ten questions about two pictures, five of them twice; a method that reads the tower sees it run for each batch.
    assert sum(pictures) == (4 if name == "visionzip" else 2)
    assert task.sizes(items[:2]) == PictureQuestions("scenes", items, loaded, prompts).sizes(items[:2])


def test_others_are_asked_picture_by_picture(loaded: Loaded) -> None:
    llava = Prompts(loaded.processor, choose_setting("llava-1.5", loaded.name), frames=1, clips=False)
    assert not SceneQuestions.suits(loaded, llava)
