"""Charts of tokens per layer, and the one figure to show around."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from sparsesight import SparseSightError, viz
from sparsesight.core.facts import Meaning
from sparsesight.viz.chart import svg
from sparsesight.viz.colours import LINES
from tests.viz.made_records import look, report, smooth, stage
from tests.viz.test_draw import MERGING, WORDS


def test_a_staircase_has_every_run() -> None:
    figure = viz.staircase({"many": look(smooth(8, 8)), "few": report(16, 3)})
    drawn = svg(figure)
    assert drawn.startswith("<svg") and all(
        name in drawn for name in ("many", "few", "decoder layer", "dense")
    )
    assert svg(viz.staircase({"many": look(smooth(8, 8)), "few": report(16, 3)})) == drawn
    assert ">3<" in svg(viz.staircase(report(16, 3)))
    with pytest.raises(SparseSightError, match="give one look"):
        viz.staircase({})


def test_a_staircase_begins_below_what_the_dense_model_has() -> None:
    """A method that prunes before the first layer never has all tokens in a layer."""
    pytest.importorskip("matplotlib")
    early = report(16, 3, before=True)
    (axes,) = viz.staircase(early).axes
    assert axes.lines[0].get_ydata().tolist() == [16, 16] and axes.get_ylim()[1] > 16
    assert {text.get_text() for text in axes.texts} == {"dense", "3"}


def test_lines_above_a_figure_are_as_wide_as_it_and_no_wider() -> None:
    pytest.importorskip("matplotlib")
    many = " ".join(["What is on the table beside the window?"] * 9)
    figure = viz.figure(look(smooth(64, 48), stage(16, [2])), question=many, answers={"dense": many})
    figure.canvas.draw()
    whole = figure.bbox.width
    for text in figure.subfigs[0].texts:
        within = text.get_window_extent()
        assert within.x1 <= whole, text.get_text()
        assert "\n" not in text.get_text() or within.x1 > 0.75 * whole, text.get_text()


def test_a_figure_says_what_was_asked_answered_and_saved() -> None:
    pytest.importorskip("matplotlib")
    of = look(smooth(64, 48), MERGING, stage(16, [2], layer=4), words=WORDS)
    figure = viz.figure(of, question="What colour?", answers={"dense": "red", "sparse": ""})
    said = [text.get_text().replace("\n", " ") for text in figure.subfigs[0].texts]
    assert said == ["What colour?", "dense: red, sparse: (nothing)", of.report.headline]
    titles = [axes.get_title() for axes in figure.subfigs[1].axes]
    assert titles == [
        "the picture",
        "scores after layer 2, yellow: high\nscores",
        "after layer 2\n3 + 1 merged of 16\nhatched: merged into the dots",
        "after layer 4\n1 of 16",
        "visual tokens entering",
    ]
    asked = replace(MERGING, meaning=Meaning("likeness to what was asked", "half of them for a change"))
    flat = replace(stage(16, [2]), score=np.ones(16, np.float32))
    scores, kept = (axes.get_title() for axes in viz.figure(look(smooth(8, 8), asked)).subfigs[1].axes[1:3])
    assert scores.endswith("\nlikeness to what was asked") and "half of them\nfor a change" in kept
    assert "scores" not in str(
        [axes.get_title() for axes in viz.figure(look(smooth(8, 8), flat)).subfigs[1].axes]
    )
    assert len(viz.figure(look(smooth(8, 8))).subfigs[1].axes) == 2  # ran dense: the picture and the chart
    with pytest.raises(SparseSightError, match="look"):
        viz.figure("look")  # type: ignore[arg-type]


def test_lines_of_a_staircase_that_lie_on_one_another_can_all_be_seen() -> None:
    runs = {f"run {i}": report(576, 64 if i < 3 else 100 + 40 * i) for i in range(10)}
    figure = viz.staircase(runs)
    figure.canvas.draw()
    (axes,), (legend,) = figure.axes, figure.legends
    assert max(line.get_linewidth() for line in axes.lines) <= 2.5
    assert [text.get_text() for text in legend.get_texts()] == list(runs)
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1 - 1
    assert axes.get_window_extent().width > 0.5 * figure.bbox.width
    # The lowest step is of three runs, the first of all ten.
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)  # type: ignore[attr-defined]
    for tokens, layers, there in ((64, (2.6, 5.4), 3), (576, (-0.4, 2.4), len(LINES))):
        (left, y), (right, _) = (axes.transData.transform((layer, tokens)) for layer in layers)
        row = pixels[pixels.shape[0] - 1 - round(y), round(left) : round(right)]
        shares = [(abs(row - np.array(colour)).max(-1) < 60).mean() for colour in LINES[:there]]
        assert min(shares) > 0.04, shares


def test_without_matplotlib_a_chart_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SparseSightError, match=r"pip install 'sparsesight\[plots\]'"):
        viz.staircase(report(16, 3))
    page = viz.page(look(smooth(8, 8), MERGING))
    assert "<svg" not in page and "16 in layers 0-2, 3 in layers 3-5" in page
