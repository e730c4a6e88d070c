"""Tables and plot say what the summary holds."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight.equal_cost import STANDS_FOR
from sparsesight.eval.brief import brief
from sparsesight.eval.csv_table import comma_separated
from sparsesight.eval.metrics import Mean
from sparsesight.eval.plot import LEAST_X, LEAST_Y, apart, curves, draw, plot
from sparsesight.eval.records import Sample
from sparsesight.eval.summary import summarise
from sparsesight.eval.tables import markdown, title
from tests.eval.made_samples import marked
from tests.eval.test_summary import CELLS, RIGHT, priced, runs, summary


def tagged(samples: list[Sample]) -> list[Sample]:
    return [replace(x, tags=("early" if int(x.id) < 40 else "late",)) for x in samples]


@pytest.fixture(scope="module")
def both() -> dict[str, Any]:
    made = {label: tagged(samples) for label, samples in runs().items()}
    return summarise({"made": (Mean(), made), "second": (Mean(), runs())}, CELLS, solved=True)


def row(text: str, *starts: str) -> str:
    """The first line of a Markdown table that starts with these cells."""
    return next(line for line in text.splitlines() if line.startswith("| " + " | ".join(starts) + " |"))


def test_the_title_says_whether_costs_are_equal() -> None:
    assert title(summary()) == "equal cost (mean prefill FLOPs at one budget differ by at most 1.0%)"
    assert title(summary(random_64=priced(marked(RIGHT), 110))) == "costs differ: by 8.9% at budget 64"
    retain = summarise({"made": (Mean(), runs())}, CELLS)
    assert title(retain) == "same retain (mean prefill FLOPs at one retain differ by up to 1.0%)"
    dense = summarise({"made": (Mean(), {"dense": marked(RIGHT)})}, CELLS[:1])
    assert title(dense) == "dense only"


@pytest.mark.parametrize(
    ("solved", "words"),
    [
        (True, "one method at each budget, no costs to compare"),
        (False, "same retain, one method at each budget, no costs to compare"),
    ],
)
def test_one_method_is_equal_to_nothing(solved: bool, words: str) -> None:
    alone = [cell for cell in CELLS if cell.name in ("dense", "random")]
    mine = {cell.label: runs()[cell.label] for cell in alone}
    assert title(summarise({"made": (Mean(), mine)}, alone, solved=solved)) == words


def test_markdown(both: dict[str, Any]) -> None:
    text = markdown(both, {"model": "tiny"}, {})
    assert text.startswith("# Sweep: equal cost (") and "\n- model: tiny\n" in text
    assert "-37.5 (" in row(text, "random", "64") and "< 0.001" in row(text, "random", "64")
    assert "| no difference found: 0.0 (0.0 to 0.0) | 1.000 | 100.0 |" in row(text, "random", "192")
    assert "| 1.00% | 64.0 | 70.5 | 1 kB |" in row(text, "random", "64")
    assert "| random@64 | -50.0 (" in text and "| row less column | sparsevlm+@64 |\n" in text
    assert "| 25.0, -75.0 (" in row(text, "early (n 40)") and "| 50.0, ≈ 0.0 (" in row(text, "late (n 40)")
    assert "prefill, ms" not in text and "| dense | 100.0 (100.0 to 100.0) | 100.0 |" in text
    assert "no interval is reliable" not in text


def test_few_units_are_said_to_be_few() -> None:
    samples = {label: [replace(x, unit=str(int(x.id) // 10)) for x in mine] for label, mine in runs().items()}
    assert "With 8 units no interval is reliable." in markdown(
        summarise({"made": (Mean(), samples)}, CELLS), {}, {}
    )


def test_latencies_have_a_column_where_measured(both: dict[str, Any]) -> None:
    text = markdown(both, {}, {("made", "random@64"): 12.34})
    assert row(text, "random", "64").endswith("| 12.3 |") and row(text, "dense", "").endswith("|  |")


def test_samples_that_pruned_nothing_are_told() -> None:
    dense_run = priced(marked(RIGHT), 100)
    dense_run[3] = replace(dense_run[3], cost={**dense_run[3].cost, "note": "ran dense: no visual tokens"})
    assert "random@64 pruned nothing in 1 samples." in markdown(summary(random_64=dense_run), {}, {})


def test_csv_has_full_digits(both: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(both, {("made", "random@64"): 12.34}))))
    assert len(rows) == 4 * (1 + 2) + 4
    (one,) = [
        r for r in rows if (r["task"], r["method"], r["budget"], r["group"]) == ("made", "random", "64", "")
    ]
    found = both["tasks"]["made"]["cells"]["random@64"]
    assert float(one["difference"]) == -37.5 and float(one["macs"]) == 100 and one["prefill_ms"] == "12.34"
    assert float(one["difference_low"]) == found["against_dense"]["difference"]["low"]
    assert (one["only_method_right"], one["only_dense_right"]) == ("0", "30")
    (early,) = [r for r in rows if r["method"] == "random" and r["budget"] == "64" and r["group"] == "early"]
    assert float(early["score"]) == 25 and early["macs"] == ""


def test_curves_are_the_overall_numbers(both: dict[str, Any]) -> None:
    (macs,) = curves(both, {})
    assert macs["random"]["x"] == [25.0, 50.0] and macs["random"]["y"] == [50.0, 100.0]
    times = {(task, label): x for task in both["tasks"] for x, label in enumerate(both["overall"], 1)}
    _, timed = curves(both, times)
    assert timed["random"]["x"] == [2.0, 4.0]
    del times["second", "random@64"]
    assert len(curves(both, times)) == 1  # half a curve would mislead


def test_plot(both: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(both, {}, tmp_path / "one.png")
    plot(
        both,
        {(task, label): 5.0 for task in both["tasks"] for label in both["overall"]},
        tmp_path / "two.png",
    )
    one, two = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "two.png")
    assert two.width == 2 * one.width and two.height == one.height
    colors = one.convert("RGB").getcolors(1 << 24)
    assert colors is not None and {(0, 114, 178), (213, 94, 0)} <= {color for _, color in colors}


def test_points_are_drawn_at_their_true_cost_and_axes_are_wide(both: dict[str, Any]) -> None:
    """Methods of equal cost stand some points of the page apart, which no zoom of an axis turns into a difference."""
    pytest.importorskip("matplotlib")
    close = {
        label: {**x, "macs_share": 0.25 + 0.001 * i} for i, (label, x) in enumerate(both["overall"].items())
    }
    for of in close.values():
        of["of_dense"] = {"value": 100.0, "low": 99.5, "high": 100.5}
    figure = draw({**both, "overall": close}, {})
    (axis,) = figure.axes
    (found,) = curves({**both, "overall": close}, {})
    lines, names = axis.get_legend_handles_labels()
    assert names[0] == "dense" and set(names) == {"dense", "random", "sparsevlm+"}
    for line, name in list(zip(lines, names, strict=True))[1:]:
        assert line[0].get_xdata().tolist() == found[name]["x"]
    left, right = axis.get_xlim()
    assert right / left >= LEAST_X * 0.999 and axis.get_ylim()[1] - axis.get_ylim()[0] >= LEAST_Y * 0.999
    shown = [line[0].get_window_extent().x0 for line in lines[1:]]
    assert shown[0] != shown[1]
    heights = sorted(text.get_position()[1] for text in axis.texts)
    assert len(heights) == 3 and all(b - a > 0.049 for a, b in itertools.pairwise(heights))


def test_names_stand_at_their_lines_and_make_way_no_more_than_they_must() -> None:
    assert apart([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])
    assert apart([0.2, 0.5, 0.5, 0.9], 0.1) == pytest.approx(
        [0.2, 0.45, 0.55, 0.9]
    )  # one that is alone stays
    assert apart([0.3, 0.99, 1.0], 0.1) == pytest.approx([0.3, 0.9, 1.0])  # within the panel
    assert apart([0.5] * 41, 0.05) == pytest.approx([i / 40 for i in range(41)])


def test_a_terminal_gets_the_differences_that_matter(both: dict[str, Any]) -> None:
    _, (mean, made, second), notes = brief(both)
    assert notes[0].startswith("equal cost")
    assert (
        STANDS_FOR in notes[1]
        and made.heads[-1] == "own retain"
        and STANDS_FOR.capitalize() in markdown(both, {}, {})
    )
    assert "≈" in notes[2] and len(notes) == 3
    own = {**both, "costs": {**both["costs"], "solved": False}}  # with --same-retain a budget is that
    assert STANDS_FOR not in " ".join(brief(own).notes) and STANDS_FOR.capitalize() not in markdown(
        own, {}, {}
    )
    assert mean.title == "all tasks" and "second" in second.title
    assert made.title == "made: 80 questions in 80 units"
    cells = {(x[0], x[1]): x[2:] for x in made.cells}
    assert cells["dense", ""] == ["75.0", "", "100%", ""]
    assert cells["sparsevlm+", "64"][1].startswith("+12.5 (") and cells["random", "192"][1].startswith(
        "≈ 0.0 ("
    )
    assert all(len(row) == len(table.heads) for table in (mean, made, second) for row in table.cells)
    few = brief(summarise({"made": (Mean(), {k: v[:6] for k, v in runs().items()})}, CELLS)).tables
    assert few[0].title == "made: 6 questions in 6 units; too few for reliable intervals"


def test_a_terminal_gets_the_result_in_a_sentence_first(both: dict[str, Any]) -> None:
    """About the cheapest budget; a method is not said to be ahead where the paired interval holds zero."""
    clear = (
        "sparsevlm+ scores highest at 64: 87.5 %, dense 75.0, for 25% of the prefill FLOPs; next random 37.5."
    )
    assert brief(summary()).headline == clear
    near = priced(marked([1] * 69 + [0] * 11), 101)
    assert brief(summary(random_64=near)).headline.endswith(
        "; next random 86.2; not told apart from it: random."
    )
    same = priced(marked([1] * 70 + [0] * 10), 100)
    assert brief(summary(random_64=same)).headline.startswith(
        "random and sparsevlm+ score highest at 64: 87.5 %, dense 75.0, for 25% of the prefill FLOPs"
    )
    dearer = priced(marked([0] * 80), 200)
    assert "for 25% (others: 25% to 50%) of the prefill FLOPs" in brief(summary(random_64=dearer)).headline
    one = summarise({"made": (Mean(), {k: runs()[k] for k in ("dense", "random@192")})}, CELLS, solved=True)
    assert brief(one).headline == "random scores at 192: 75.0 %, dense 75.0, for 50% of the prefill FLOPs."
    dense = summarise({"made": (Mean(), {"dense": marked(RIGHT)})}, CELLS[:1])
    assert brief(dense).headline == "Only the dense model ran: 75.0 on made."
    few = {label: [replace(x, unit="one") for x in mine] for label, mine in runs().items()}
    said = brief(summarise({"made": (Mean(), few)}, CELLS, solved=True))
    assert said.headline.endswith("; 1 unit is too few to tell them apart.")
    assert "no interval: fewer than 6 units" in said.notes
    scene = summarise({"made": (Mean(), few)}, CELLS, solved=True, nouns={"made": "scene"})
    said = brief(scene)
    assert said.headline.endswith("; 1 scene is too few to tell them apart.")
    assert said.tables[0].title == "made: 80 questions about 1 scene; too few for reliable intervals"
    assert "no interval: fewer than 6 scenes" in said.notes
    assert "80 questions about 1 scene. With 1 scene no interval is reliable." in markdown(scene, {}, {})
    assert " % of the dense score on average, for " in brief(both).headline


def test_groups_are_held_against_the_controls(both: dict[str, Any]) -> None:
    """The interval is that of the paired difference, whichever of two stood first."""
    text = markdown(both, {}, {})
    _, _, beside = text.partition("### made: groups of questions: difference from random@64")
    assert "| questions | sparsevlm+@64 |" in beside.splitlines()[2]
    pairs = both["tasks"]["made"]["tags"]["early"]["pairs"]
    (pair,) = [x for x in pairs if (x["first"], x["second"]) == ("random@64", "sparsevlm+@64")]
    found = pair["difference"]
    assert found["value"] == -75
    assert f"| +75.0 ({-found['high']:.1f} to {-found['low']:.1f}) |" in row(beside, "early (n 40)")
    assert "groups of questions: difference from uniform" not in text

    rows = list(csv.DictReader(io.StringIO(comma_separated(both, {}))))
    (early,) = [r for r in rows if (r["method"], r["budget"], r["group"]) == ("sparsevlm+", "64", "early")]
    assert float(early["over_random"]) == 75 and early["over_uniform"] == ""
    assert (float(early["over_random_low"]), float(early["over_random_high"])) == (
        -found["high"],
        -found["low"],
    )
    (whole,) = [
        r
        for r in rows
        if (r["task"], r["method"], r["budget"], r["group"]) == ("made", "sparsevlm+", "64", "")
    ]
    assert float(whole["over_random"]) == 50
    assert all(r["over_random"] == "" for r in rows if r["method"] in ("dense", "random"))


def test_the_title_without_a_common_budget() -> None:
    alone = [CELLS[0], replace(CELLS[1], retain=None)]
    found = {"dense": priced(marked(RIGHT), 400), "random": priced(marked(RIGHT), 100)}
    assert title(summarise({"made": (Mean(), found)}, alone)) == "no common budget, each at its own cost"
    assert title(summarise({"made": (Mean(), found)}, CELLS[:1])) == "dense only"
