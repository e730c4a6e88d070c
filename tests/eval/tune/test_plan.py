"""Which rows choose and which are held back, and what can be promised with few."""

from __future__ import annotations

import pytest

from sparsesight import SparseSightError
from sparsesight.eval.records import Item
from sparsesight.eval.tune.plan import make_plan
from sparsesight.eval.tune.settings import make_settings


def items(count: int, per_picture: int = 1) -> list[Item]:
    return [Item(f"{i:03d}", "?", None, unit=f"{i // per_picture:03d}") for i in range(count)]


@pytest.mark.parametrize("per_picture", [1, 3])
def test_pictures_are_on_one_side(per_picture: int) -> None:
    plan = make_plan(items(300 * per_picture, per_picture), 8, 0.95, 0.95)
    asked = [item for chunk in plan.chunks for item in chunk.items]
    assert sorted(item.id for item in asked) == [item.id for item in items(300 * per_picture)]
    sides = [
        {item.unit for i in part for item in plan.chunks[i].items}
        for part in (range(plan.parts.search), plan.parts.held)
    ]
    assert not sides[0] & sides[1] and [len(side) for side in sides] == [75, 225]
    assert plan.parts.held_units == 225 and plan.single == (per_picture == 1)
    assert all(sum(chunk.lengths) == len(chunk.items) for chunk in plan.chunks)
    again = make_plan(items(300 * per_picture, per_picture), 8, 0.95, 0.95)
    assert again == plan
    assert [len(x) for x in plan.parts.rounds] == [3, 2, 5] if per_picture == 1 else True


def test_few_rows_are_told_what_they_can_show() -> None:
    with pytest.raises(SparseSightError) as error:
        make_plan(items(60), 8, 0.98, 0.95)
    text = str(error.value)
    assert "with 60 rows at most 93.5 % can be shown (45 held back, 95% confidence)" in text
    enough = int(text.split("give ")[1].split(",")[0])
    assert make_plan(items(enough), 8, 0.98, 0.95).parts.held_units >= 149
    with pytest.raises(SparseSightError):
        make_plan(items(enough - 1), 8, 0.98, 0.95)
    with pytest.raises(SparseSightError, match="with 60 rows about 20 pictures"):
        make_plan(items(60, 3), 8, 0.98, 0.95)
    with pytest.raises(SparseSightError, match="with 3 rows nothing can be shown"):
        make_plan(items(3), 8, 0.98, 0.95)


def test_settings_are_methods_times_budgets_times_depths() -> None:
    found = make_settings(["halves", "sparsevlm:published", "fastv(retain=64)"], [0.5, 32], [(1,), (2,)])
    names = [setting.name for setting in found]
    assert names[:2] == ["halves(retain=0.5, layers=(1,))", "halves(retain=32, layers=(1,))"]
    assert len(names) == 4 + 2 and names[-1] == "fastv"
    assert len({setting.kind for setting in found}) == 4
    with pytest.raises(SparseSightError, match="'halves' is there twice"):
        make_settings(["halves", "halves"], [64])
