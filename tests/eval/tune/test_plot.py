"""The plot of a search: lines are named where they end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sparsesight.eval.tune.plot import draw
from sparsesight.eval.tune.result import Promise


def test_each_line_is_named_at_its_cheapest_setting() -> None:
    pytest.importorskip("matplotlib")
    rows = [
        {"setting": f"{kind}(retain={share})", "kept": kept, "bound": kept - 0.03, "cost_share": share}
        for share in (0.8, 0.5, 0.2)
        for kind, kept in (
            ("halves", 0.9 + share / 10),
            ("uniform", 0.9 + share / 20),
            ("dart", 0.5 + share / 2),
        )
    ]
    rows = [{**row, "chosen": row["setting"] == "halves(retain=0.2)"} for row in rows]
    kinds = {row["setting"]: str(row["setting"])[:3] for row in rows}
    figure = draw(rows, kinds, Promise(0.95, 0.95))
    (axis,) = figure.axes
    assert axis.get_legend() is None
    names = [x for x in axis.texts if x.get_text() in ("halves", "uniform", "dart")]
    assert len(names) == 3
    heights = sorted(x.xy[1] for x in names)  # type: ignore[attr-defined]
    assert min(b - a for a, b in pairwise(heights)) > 0.049
    by_name = {x.get_text(): x for x in names}
    least = axis.get_ylim()[0] + by_name["dart"].xy[1] * (axis.get_ylim()[1] - axis.get_ylim()[0])  # type: ignore[attr-defined]
    assert abs(least - 60) < 1
    colours = {line.get_color() for line in axis.lines}
    assert all(x.get_color() in colours for x in names)
    assert axis.get_xlim()[0] < 10 < 20, "room for the names"
