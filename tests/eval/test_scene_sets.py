"""The tasks of rendered scenes: their names, pictures of less detail, and questions that those make hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsesight import SparseSightError
from sparsesight.eval.cell_file import CellFile
from sparsesight.eval.image_task import PictureQuestions
from sparsesight.eval.mixed_scenes import mixed_items, patch_group
from sparsesight.eval.prepare import check_tasks
from sparsesight.eval.prompts import Prompts, choose_setting
from sparsesight.eval.records import Item
from sparsesight.eval.scene_sets import SCENES, by_difficulty, check_difficulty, downsampled, scene_set
from sparsesight.eval.scene_task import SceneQuestions
from sparsesight.hf.loading import load_model
from sparsesight.methods import make_method
from sparsesight.scenes.mixed import packages
from tests.eval.made_samples import sample
from tests.scenes.mixed.conftest import drawable

__all__ = ["drawable"]  # a fixture

SHAPES = ("scenes", "scenes-b", "scenes-c", "scenes-d", "scenes-occluded", "scenes-clutter")
MIXED = ("scenes-mixed", "scenes-mixed-b", "scenes-new-things", "scenes-new-fonts", "scenes-new-words")
CLIPS = ("clips", "clips-static", "clips-static-b")


def test_the_tasks_are_these() -> None:
    assert tuple(SCENES) == SHAPES + MIXED + CLIPS
    assert scene_set("scenes-mixed") is SCENES["scenes-mixed"] and scene_set("mme") is None
    less = scene_set("scenes@64")
    assert less is not None and (less.split, less.tokens) == ("test", 64)
    assert {name for name, scenes in SCENES.items() if scenes.unit == "clip"} == set(CLIPS)
    assert all(SCENES[name].unit == "scene" for name in SHAPES + MIXED)


@pytest.mark.parametrize("number", ["", "0", "577", "064", "x", "6.5", "²"])
def test_details_of_no_number_of_patches_are_refused(number: str) -> None:
    with pytest.raises(
        SparseSightError, match=f"--tasks 'scenes@{number}': give a number of patches from 1 to 576"
    ):
        scene_set(f"scenes@{number}")


def test_without_icons_and_fonts_the_task_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "PINS", {"no-such-icons": "1"})
    packages.check_installed.cache_clear()
    try:
        check_tasks(["scenes"])
        with pytest.raises(SparseSightError, match=r"not installed: pip install 'sparsesight\[scenes\]'"):
            check_tasks(["scenes-mixed"])
    finally:
        packages.check_installed.cache_clear()


def test_downsampling_keeps_the_size_and_loses_the_detail() -> None:
    checks = np.indices((336, 336)).sum(0) // 14 % 2 * 255  # of the size of a patch
    picture = Image.fromarray(checks.astype(np.uint8)).convert("RGB")

    def contrast(tokens: int) -> float:
        small = downsampled(picture, tokens)
        assert isinstance(small, Image.Image) and small.size == picture.size
        return float(np.asarray(small).std())

    # A checker of 24 x 24 patches is lost below 24 x 24 pixels, and these are those of (24 / 14)² patches.
    assert contrast(576) > 100 and contrast(64) > 60 and contrast(1) < 10
    pair = downsampled((picture, picture), 2)
    assert isinstance(pair, tuple) and len(pair) == 2
    assert pair[0].tobytes() == downsampled(picture, 1).tobytes()  # type: ignore[union-attr] # they share the budget


def answered(folder: Path, task: str, scores: dict[str, float]) -> None:
    samples = [sample(name, correct=score) for name, score in scores.items()]
    CellFile(folder / "samples" / task / "dense", 0, folder).finish(samples)


def test_difficult_is_what_downsampling_gets_wrong(tmp_path: Path) -> None:
    items = [Item(name, "?", "x", tags=("color",)) for name in "abcd"]
    answered(tmp_path, "scenes@64", {"a": 1, "b": 0, "c": 0.5, "d": 0.49})
    tags = {item.id: item.tags for item in by_difficulty("scenes", items, tmp_path)}
    assert tags == {
        "a": ("color", "simple"),
        "b": ("color", "difficult"),
        "c": ("color", "simple"),
        "d": ("color", "difficult"),
    }


def test_difficulty_needs_an_answer_to_every_question(tmp_path: Path) -> None:
    items = [Item(name, "?", "x") for name in "ab"]
    with pytest.raises(
        SparseSightError, match=r"holds 0 finished runs of scenes@N.*--tasks scenes@64 --methods dense"
    ):
        by_difficulty("scenes", items, tmp_path)
    answered(tmp_path, "scenes@64", {"a": 1})
    with pytest.raises(SparseSightError, match="no answer to 1 questions of scenes, the first is 'b'"):
        by_difficulty("scenes", items, tmp_path)
    answered(tmp_path, "scenes@32", {"a": 1})
    with pytest.raises(SparseSightError, match="holds 2 finished runs"):
        by_difficulty("scenes", items, tmp_path)


def test_a_folder_that_does_not_tell_what_is_difficult_is_refused_early(tmp_path: Path) -> None:
    answered(tmp_path, "scenes@64", {"a": 1})
    check_difficulty(["scenes", "scenes@64"], tmp_path)
    with pytest.raises(SparseSightError, match="holds 0 finished runs of scenes-b@N"):
        check_difficulty(["scenes", "scenes-b"], tmp_path)
    with pytest.raises(
        SparseSightError, match=r"for tasks of scenes at full detail.*--tasks names mme, scenes@64"
    ):
        check_difficulty(["mme", "scenes@64"], tmp_path)


def test_groups_of_patches_follow_each_other() -> None:
    counts = (0, 1, 9, 10, 24, 25, 49, 50, 500)
    groups = [patch_group(count) for count in counts]
    assert groups == [
        "no patch",
        *["1 to 9 patches"] * 2,
        *["10 to 24 patches"] * 2,
        *["25 to 49 patches"] * 2,
        *["50 patches or more"] * 2,
    ]


def test_mixed_items_are_grouped_and_scored_by_their_kind(drawable: None) -> None:
    items = mixed_items("test", 40)
    assert len(items) == 40 == len({item.id for item in items})
    tags = {tag for item in items for tag in item.tags}
    assert {"icons", "signs", "charts", "tables", "pairs", "name", "read", "value", "which", "point"} <= tags
    assert {"one small object", "one large object", "no patch"} <= tags
    assert {len(item.request) for item in items if "pairs" in item.tags} == {2}
    assert all(isinstance(item.request, Image.Image) for item in items if "pairs" not in item.tags)
    assert {type(item.target) for item in items if "point" in item.tags} == {dict}
    less = scene_set("scenes-mixed@64")
    assert less is not None
    for one, other in zip(items, less.items(40), strict=True):
        assert (one.id, one.question, one.target, one.tags) == (
            other.id,
            other.question,
            other.target,
            other.tags,
        )


@pytest.mark.parametrize("name", [None, "sparsevlm"])
def test_prompts_with_two_pictures_are_answered_as_whole_prompts(drawable: None, name: str | None) -> None:
    loaded = load_model()
    prompts = Prompts(loaded.processor, choose_setting("own", loaded.name), frames=1, clips=False)
    found = [item for item in mixed_items("test", 40) if {"pairs", "icons"} & {*item.tags}]
    items = [found[0], next(item for item in found if "pairs" in item.tags)]
    method = None if name is None else make_method(name, retain=64)
    answers = []
    for kind in (PictureQuestions, SceneQuestions):
        task = kind("scenes-mixed", items, loaded, prompts, max_new_tokens=4)
        assert [size.visual for size in task.sizes(items)] == [576, 1152]
        with task.answering(method) as answer:
            answers.append(answer(items))
    whole, shared = answers
    assert [x.text for x in shared] == [x.text for x in whole]
    assert [x.cost for x in shared] == [x.cost for x in whole]
