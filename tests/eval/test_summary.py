"""The summary against numbers worked out from the samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.equal_cost import EQUAL
from sparsesight.eval.metrics import AccuracyPlus, Mean
from sparsesight.eval.records import Sample
from sparsesight.eval.summary import summarise
from sparsesight.eval.sweep import RunSpec
from sparsesight.methods import make_method
from tests.eval.made_samples import cost, marked, sample


def cell(name: str, retain: int) -> RunSpec:
    return RunSpec(name, retain, make_method(name, retain=retain))


DENSE = RunSpec("dense", None, None)
CELLS = [DENSE, cell("random", 64), cell("sparsevlm+", 64), cell("random", 192)]
RIGHT = [1] * 60 + [0] * 20  # 75 % of 80


def priced(samples: list[Sample], macs: int) -> list[Sample]:
    return [replace(x, cost=cost(macs)) for x in samples]


def runs(**changes: list[Sample]) -> dict[str, list[Sample]]:
    better = [1] * 70 + [0] * 10
    worse = [0] * 30 + [1] * 30 + [0] * 20
    found = {
        "dense": priced(marked(RIGHT), 400),
        "random@64": priced(marked(worse), 100),
        "sparsevlm+@64": priced(marked(better), 101),
        "random@192": priced(marked(RIGHT), 200),
    }
    return {**found, **{k.replace("_", "@"): v for k, v in changes.items()}}


def summary(**changes: list[Sample]) -> dict[str, Any]:
    return summarise({"made": (Mean(), runs(**changes))}, CELLS, solved=True)


def test_scores_differences_and_tests() -> None:
    found = summary()["tasks"]["made"]
    assert (found["samples"], found["units"], found["metric"]) == (80, 80, "correct, %")
    cells = found["cells"]
    assert [c["score"]["value"] for c in cells.values()] == [75, 37.5, 87.5, 75]
    assert cells["dense"]["against_dense"] is None
    worse = cells["random@64"]["against_dense"]
    assert worse["difference"]["value"] == -37.5 and worse["difference"]["high"] < 0
    assert worse["mcnemar"] == {"first": 0, "second": 30, "p": 2 / 2**30}
    same = cells["random@192"]["against_dense"]
    assert same["difference"] == {"value": 0, "low": 0, "high": 0} and same["mcnemar"]["p"] == 1
    assert cells["random@64"]["of_dense"]["value"] == 50
    assert cells["random@64"]["method"]["method"] == "random"
    (pair,) = found["pairs"]  # only methods at one budget are compared
    assert (pair["retain"], pair["first"], pair["second"]) == ("64", "random@64", "sparsevlm+@64")
    assert pair["difference"]["value"] == -50 and pair["mcnemar"]["second"] == 40


def test_a_comparison_is_paired() -> None:
    # One answer of 80 differs: the scores' own intervals are about 19 points wide, that of the difference is not.
    found = summary(random_192=priced(marked([0, *RIGHT[1:]]), 200))["tasks"]["made"]["cells"]["random@192"]
    score, difference = found["score"], found["against_dense"]["difference"]
    assert score["high"] - score["low"] > 15
    assert difference["value"] == -1.25 and difference["high"] - difference["low"] < 6


def test_units_widen_intervals() -> None:
    by_unit = {label: [replace(x, unit=str(int(x.id) // 10)) for x in mine] for label, mine in runs().items()}
    wide = summarise({"made": (Mean(), by_unit)}, CELLS)["tasks"]["made"]
    assert wide["units"] == 8
    narrow = summary()["tasks"]["made"]["cells"]["dense"]["score"]
    score = wide["cells"]["dense"]["score"]
    assert score["high"] - score["low"] > 2 * (narrow["high"] - narrow["low"])


def test_costs_are_called_equal_only_where_they_are() -> None:
    costs = summary()["costs"]
    assert costs == {"solved": True, "equal": True, "allowed": EQUAL, "spread": {"64": 0.01}}
    costs = summary(random_64=priced(marked(RIGHT), 110))["costs"]
    assert not costs["equal"] and costs["spread"]["64"] == pytest.approx(110 / 101 - 1, abs=1e-4)


def test_mean_costs() -> None:
    mixed = priced(marked(RIGHT), 100)
    mixed[0] = replace(mixed[0], cost={**cost(420), "note": "ran dense: no visual tokens"})
    found = summary(random_64=mixed)["tasks"]["made"]["cells"]["random@64"]["cost"]
    assert found["macs_sparse"] == 104 and found["macs_dense"] == 400 and found["ran_dense"] == 1
    assert found["equal_tokens"] == 64 and found["equal_tokens_entering"] == 70.5
    assert found["kv_bytes_sparse"] == pytest.approx((79 * 1000 + 4200) / 80)


def test_tags_are_reported_on_their_own() -> None:
    def tagged(samples: list[Sample]) -> list[Sample]:
        return [replace(x, tags=("all", "early" if int(x.id) < 40 else "late")) for x in samples]

    found = summarise({"made": (Mean(), {k: tagged(v) for k, v in runs().items()})}, CELLS)["tasks"]["made"]
    early, late = found["tags"]["early"], found["tags"]["late"]
    assert early["samples"] == late["samples"] == 40
    assert early["cells"]["random@64"]["score"]["value"] == 25
    assert late["cells"]["random@64"]["score"]["value"] == 50
    assert early["cells"]["random@64"]["against_dense"]["mcnemar"]["second"] == 30
    assert late["pairs"][0]["difference"]["value"] == -25


def test_parts_of_fixed_size() -> None:
    """MME's: two subtasks, one of which is always right, so that only the other one varies."""
    samples = [
        sample(f"{i:03}", part="easy" if i < 40 else "hard", unit=f"{i // 2}", correct=i < 40 or i % 3 == 0)
        for i in range(80)
    ]
    score = summarise({"mme": (AccuracyPlus(), {"dense": samples})}, CELLS)["tasks"]["mme"]["cells"]["dense"][
        "score"
    ]
    assert score["low"] >= 200
    assert score["value"] == pytest.approx(200 + 100 * (13 / 40 + 0), abs=1e-3)


def test_overall_is_the_mean_over_tasks() -> None:
    half = {
        "dense": priced(marked([1] * 40), 400),
        "random@64": priced(marked([1] * 30 + [0] * 10), 200),
    }
    both = summarise({"made": (Mean(), runs()), "half": (Mean(), half)}, CELLS)
    assert set(both["overall"]) == {"dense", "random@64"}  # what not all tasks have has no mean
    assert both["overall"]["random@64"]["of_dense"]["value"] == (50 + 75) / 2
    assert both["overall"]["random@64"]["macs_share"] == (0.25 + 0.5) / 2
    one = both["tasks"]["made"]["cells"]["random@64"]["of_dense"]
    mean = both["overall"]["random@64"]["of_dense"]
    assert 0 < mean["high"] - mean["low"] < one["high"] - one["low"]


def test_a_dense_model_that_knows_nothing_has_no_share() -> None:
    found = summary(dense=priced(marked([0] * 80), 400))
    assert found["tasks"]["made"]["cells"]["random@64"]["of_dense"] is None and found["overall"] == {}


def test_other_questions_are_refused() -> None:
    with pytest.raises(SparseSightError, match=r"made: 'random@64' lacks 1 samples that 'dense' has"):
        summary(random_64=marked(RIGHT)[:-1])
