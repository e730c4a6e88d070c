"""Putting a model into the package: pictures of the seeds named, questions that it answers rightly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparsesight import bundled
from sparsesight.scenes.scenes import KINDS, questions, render


def test_only_right_answers_are_stored_one_of_a_kind(bundle: Any) -> None:
    scene = render(bundle.FIRST_SEED)
    told = bundle.answered(*bundled.load(), scene)
    kinds = [question.kind for question in told]
    assert kinds == [kind for kind in KINDS if kind in kinds] and len(kinds) > 4
    assert set(told) <= set(questions(scene, bundle.ASKED))


def test_the_package_gets_the_model_and_nothing_stays_of_what_was_there(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.png").touch()
    image = render(1).image
    bundle.write(bundled.MODEL_PATH, {"scene-1.png": image}, {"scene-1.png": {"seed": 1}}, tmp_path)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted(
        p.name for p in bundled.MODEL_PATH.iterdir()
    )
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["questions.json", "scene-1.png"]
    assert json.loads((tmp_path / "pictures/questions.json").read_text("utf-8")) == {
        "scene-1.png": {"seed": 1}
    }
    assert np.array_equal(Image.open(tmp_path / "pictures/scene-1.png"), image)
