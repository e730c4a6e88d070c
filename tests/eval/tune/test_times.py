"""Measured times: what noise hides is not claimed."""

from __future__ import annotations

from typing import Any

from sparsesight.eval.tune.times import judged


def row(name: str, least: float, median: float, most: float) -> dict[str, Any]:
    return {
        "method": name,
        "first_token_dense_ms": 120.0,
        "spread": {"first_token_speedup": {"min": least, "median": median, "max": most}},
    }


def test_times_that_are_told_apart() -> None:
    times, note = judged([row("a", 1.9, 2.0, 2.1), row("b", 1.1, 1.2, 1.3), row("c", 0.8, 0.8, 0.9)])
    assert times == {"dense": 120.0, "a": 60.0, "b": 100.0, "c": 150.0} and note == ""


def test_a_setting_that_was_slower_in_one_turn_saves_nothing() -> None:
    times, note = judged([row("a", 1.9, 2.0, 2.1), row("b", 0.9, 1.2, 1.3)])
    assert (
        times["b"] == times["dense"]
        and "1 of 2 settings were faster than the dense model in most turns" in note
    )
    assert "b: 0.90 to 1.30 times as fast" in note and "quiet machine" in note


def test_settings_whose_times_overlap_are_named() -> None:
    _, note = judged([row("a", 1.2, 1.6, 2.1), row("b", 1.1, 1.5, 1.9)])
    assert "a: 1.20 to 2.10 times as fast, b: 1.10 to 1.90 times as fast" in note
