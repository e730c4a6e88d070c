"""A report by hand, that says the same in every form."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from sparsesight import SparseVLM, SparseVLMPlus
from sparsesight.core.budget import Stage
from sparsesight.core.facts import AFTER, NOTHING
from sparsesight.errors import BudgetError
from sparsesight.hf.batch_report import batch_report
from sparsesight.macs import DecoderShape
from sparsesight.methods import METHODS, from_dict, make_method
from sparsesight.report import Latency, RegionReport, Report, by_layers, run_lengths, where

SHAPE = DecoderShape.llama(6, 16, 32, 4)
METHOD = SparseVLM((6, 2), (1, 3))


def region(visual: int, text: int, *stages: Stage) -> tuple[RegionReport, ...]:
    """A sample that is one region."""
    return (RegionReport(0, visual, text, AFTER if text else NOTHING, stages),)


KEPT = region(4, 2, Stage(1, 4, 4), Stage(3, 4, 4))


def report(**changes: Any) -> Report:
    """Two samples: one of 10 visual tokens that is pruned to 6 and 2, one of 4 that its budget leaves alone."""
    given: dict[str, Any] = {
        "method": METHOD.to_dict(),
        "shape": SHAPE,
        "layers": (1, 3),
        "regions": (region(10, 3, Stage(1, 10, 5, 2, 1), Stage(3, 6, 1, 1, 1)), KEPT),
        "length": (15, 8),
        "width": 15,
        "overhead": METHOD.overhead,
        "past": (0,) * 6,
        "latency": Latency(),
    }
    return batch_report(**{**given, **changes})


@pytest.mark.parametrize("method", ["tome", "sparsevlm", "divprune", "fastv"])
def test_a_sample_that_nothing_judges_costs_no_scoring(method: str) -> None:
    """Beside one that is pruned."""
    own = make_method(method, retain=4)
    regions = region(10, 3, Stage(1, 10, 0, 10, 4)), region(4, 0, Stage(1, 4, 4))
    both = report(overhead=own.overhead, method=own.to_dict(), layers=(1,), regions=regions)
    judged, alone = both.samples
    assert judged.macs_scoring > 0 == alone.macs_scoring and "no text" in alone.note


def test_report_by_hand() -> None:
    got = report()
    pruned, whole = got.samples
    assert (pruned.visual_tokens, pruned.text_tokens) == (10, 5)
    assert pruned.visual_per_layer == (10, 10, 6, 6, 2, 2)
    assert pruned.equal_tokens == (10 + 6 + 6 + 2 + 2 + 2) / 6
    assert pruned.equal_tokens_entering == 36 / 6
    raters, rows = 10 * 3 * 16, 3 * (15 + 11) * 16  # the second stage's layer still sees 15 - 10 + 6 keys
    assert pruned.macs_scoring == raters + rows + (2**2 + 1**2) * 16
    assert pruned.macs_dense == SHAPE.prefill_macs([15] * 6)
    assert pruned.macs_sparse == SHAPE.prefill_macs([15, 15, 11, 11, 7, 7]) + pruned.macs_scoring
    assert pruned.note == ""

    assert whole.visual_per_layer == (4,) * 6 and whole.equal_tokens == whole.equal_tokens_entering == 4
    assert whole.macs_sparse == whole.macs_dense == SHAPE.prefill_macs([8] * 6)
    assert whole.macs_scoring == 0 and "keeps every visual token" in whole.note

    assert got.kv_lengths == (
        15,
        15,
        11,
        11,
        8,
        8,
    )  # the longest sample decides: 11 of 11 and 8, then 8 of 7 and 8
    assert got.kv_bytes_sparse == 2 * SHAPE.kv_cache_bytes((15, 15, 11, 11, 8, 8))
    assert got.kv_bytes_dense == 2 * SHAPE.kv_cache_bytes((15,) * 6)
    assert got.macs_dense == pruned.macs_dense + whole.macs_dense
    assert got.macs_sparse == pruned.macs_sparse + whole.macs_sparse
    assert got.speedup_limit == got.macs_dense / got.macs_sparse > 1
    assert got.prefill_ms is None and got.decode_ms is None


def test_report_with_a_past() -> None:
    past = (5, 5, 5, 5, 3, 3)
    got, without = report(past=past), report()
    assert got.kv_lengths == (20, 20, 16, 16, 11, 11)
    assert got.kv_bytes_dense == 2 * SHAPE.kv_cache_bytes([p + 15 for p in past])
    assert got.samples[0].macs_dense == SHAPE.prefill_macs([15] * 6, past)
    more = got.samples[0].macs_scoring - without.samples[0].macs_scoring
    assert more == 3 * (past[1] + past[3]) * 16


def test_report_agrees_with_the_schedule() -> None:
    method = SparseVLMPlus(192)
    shape = DecoderShape.llama(32, 64, 96, 4)
    schedule = method.plan(576, 32, (2, 6, 15))
    got = report(
        method=method.to_dict(),
        shape=shape,
        layers=(2, 6, 15),
        regions=(region(576, 53, *schedule.stages),),
        length=(664,),
        width=664,
        past=(0,) * 32,
    )
    (sample,) = got.samples
    assert sample.visual_per_layer == schedule.entering
    assert sample.equal_tokens == schedule.equal_tokens
    assert sample.equal_tokens_entering == schedule.equal_tokens_entering
    assert got.kv_lengths == tuple(664 - 576 + n for n in schedule.entering)


@pytest.mark.parametrize(
    ("visual", "text", "says"),
    [
        (0, 0, "no visual tokens"),
        (4, 0, "no text after the visual tokens"),
        (4, 2, "keeps every visual token"),
    ],
)
def test_report_of_a_dense_run_says_why(visual: int, text: int, says: str) -> None:
    got = report(regions=(region(visual, text),), length=(8,), width=8)
    (sample,) = got.samples
    assert says in sample.note and says in str(got)
    assert sample.macs_sparse == sample.macs_dense and sample.macs_scoring == 0
    assert got.kv_lengths == (8,) * 6 and got.kv_bytes_dense == got.kv_bytes_sparse
    assert got.speedup_limit == 1


def test_report_is_json() -> None:
    latency = Latency()
    for ms, prefill in ((9.0, True), (3.0, True), (5.0, True), (2.0, False), (1.0, False)):
        latency.add(ms, prefill)
    got = report(latency=latency)
    assert (got.prefill_ms, got.decode_ms) == (5.0, 1.5)  # medians
    data = json.loads(json.dumps(got.to_dict()))
    assert data == json.loads(got.to_json())
    assert from_dict(data["method"]) == METHOD
    assert data["macs_sparse"] == sum(s["macs_sparse"] for s in data["samples"])
    assert data["macs_dense"] == sum(s["macs_dense"] for s in data["samples"])
    assert data["speedup_limit"] == data["macs_dense"] / data["macs_sparse"]
    assert data["kv_lengths"] == list(got.kv_lengths)
    assert data["samples"][0]["visual_per_layer"] == [10, 10, 6, 6, 2, 2]


def test_report_reads_well() -> None:
    latency = Latency([3.14159], [])
    assert str(report(latency=latency)).splitlines() == [
        f"{report().speedup_limit:.1f}x less prefill arithmetic, 24 % less KV cache; "
        "on average 4 of 7 visual tokens leave a layer, 5 enter it, over 2 samples",
        "sparsevlm, pruning after layers 1, 3",
        "                                       dense      sparse",
        "visual tokens per layer                  7.0         4.3",
        "visual tokens entering a layer           7.0         5.0",
        f"prefill multiply-adds               {report().macs_dense / 1e3:.2f} k    {report().macs_sparse / 1e3:.2f} k",
        "KV cache bytes                       11.52 k      8.70 k",
        "prefill ms                                          3.14",
        "visual tokens entering",
        "  sample 0: 10 in layers 0-1, 6 in layers 2-3, 2 in layers 4-5",
        "  sample 1: 4 in layers 0-5  (ran dense: the budget keeps every visual token)",
    ]


def test_rows_use_metric_prefixes() -> None:
    big = report(shape=DecoderShape.llama(6, 4096, 11008, 32))
    rows = {name: (dense, sparse) for name, dense, sparse in big.rows()}
    assert rows["prefill multiply-adds"][0] == f"{big.macs_dense / 1e9:.2f} G"
    assert rows["KV cache bytes"][1] == f"{big.kv_bytes_sparse / 1e6:.2f} M"


def test_a_headline_says_what_was_saved() -> None:
    one = report(
        regions=(region(10, 3, Stage(1, 10, 5, 2, 1), Stage(3, 6, 1, 1, 1)),), length=(15,), width=15
    )
    assert one.headline.endswith("; on average 5 of 10 visual tokens leave a layer, 6 enter it")
    dense = report(regions=(region(4, 2),), length=(8,), width=8)
    assert dense.headline == "nothing was saved (ran dense: the budget keeps every visual token)"
    costly = replace(one, samples=(replace(one.samples[0], macs_sparse=3 * one.macs_dense),))
    assert costly.headline.startswith("3.0x more prefill arithmetic, ")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layers", [6, 32])
def test_the_averages_of_a_headline_are_of_what_happened(name: str, layers: int) -> None:
    """At the least budget: a single stage after layer 0 or 2 leaves all tokens to the layers before it."""
    method = make_method(name, retain=1) if METHODS[name].one_budget else make_method(name)
    where_, visual = method.stage_layers(layers), 576
    try:
        stages = method.plan(visual, layers, where_).stages
    except BudgetError as error:  # which names the least
        least = int(re.findall(r"possible are (\d+) to 576", str(error))[0])
        stages = replace(method, retain=least).plan(visual, layers, where_).stages
    got = report(
        method=method.to_dict(),
        shape=DecoderShape.llama(layers, 16, 32, 4),
        layers=where_,
        regions=(region(visual, 3, *stages),),
        length=(visual + 5,),
        width=visual + 5,
        overhead=method.overhead,
        past=(0,) * layers,
    )
    (sample,) = got.samples
    entering = sum(sample.visual_per_layer) / layers
    said = got.headline.partition("; ")[2]
    assert re.search(r"(\d+) (enter it|of 576 visual tokens per layer)", said)[1] == f"{entering:.0f}"  # type: ignore[index]
    if "enter it" in said:
        assert f"{sample.equal_tokens:.0f} of 576 visual tokens leave a layer" in said


def test_layers_in_words() -> None:
    assert by_layers((576, 300, 300, 576)) == "576 in layer 0, 300 in layers 1-2, 576 in layer 3"
    assert by_layers(()) == ""


def test_run_lengths() -> None:
    assert run_lengths((576, 576, 576, 300, 200, 200)) == "576 x3, 300 x1, 200 x2"
    assert run_lengths(()) == ""
    assert run_lengths((5, 4, 5)) == "5 x1, 4 x1, 5 x1"


def test_where_stages_are() -> None:
    assert where((-1,)) == "before the first layer"
    assert where((2, 6)) == "after layers 2, 6"
    assert where((-1, 2)) == "before the first layer and after layer 2"
