"""The plot of settings of halves."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.sensitivity import CONSTANTS, RULE, draw, methods
from sparsesight.methods import Halves, parse


def test_every_setting_changes_one_constant() -> None:
    made = [parse(text) for text in methods()]
    assert made.count(Halves()) == 1 and len(set(map(str, made))) == len(made) == 16
    for constant in CONSTANTS:
        assert list(constant.settings.values()).count(RULE) == 1
    for method in made:
        assert len(set(method.to_dict().items()) - set(Halves().to_dict().items())) <= 1


def test_every_setting_is_drawn() -> None:
    cells: dict[str, Any] = {
        f"{text}@9": {"against_dense": {"difference": {"value": -i, "low": -i - 1.0, "high": -i + 2.0}}}
        for i, text in enumerate(methods())
    }
    figure = draw({"tasks": {"scenes": {"samples": 7, "units": 2, "cells": cells}}}, "scenes", 9)
    assert "7 questions in 2 scenes" in str(figure.get_suptitle())
    for axes, constant in zip(figure.axes, CONSTANTS, strict=True):
        assert axes.get_title() == constant.title
        heights = [float(container[0].get_ydata()[0]) for container in axes.containers]
        assert heights == [-methods().index(text) for text in constant.settings.values()]
