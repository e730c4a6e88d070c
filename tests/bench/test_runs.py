"""The benchmark measures what it says: one row a case, in turns, beside the same work without a mechanism.

No test looks at speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, sparsify
from sparsesight.bench import Case, bench, runs
from sparsesight.bench.table import remarks, tables
from sparsesight.bench.work import run_once
from sparsesight.hf.compiled.options import Fast
from sparsesight.methods import make_method
from sparsesight.profiling.sections import PARTS
from sparsesight.random_models import Shape, random_llava, repeat_prompt
from tests.bench.small import SMALL

Subject = tuple[Any, dict[str, Any]]


@pytest.fixture(scope="module")
def small() -> Subject:
    return random_llava(Shape.parse(SMALL), torch.float32, "cpu")


def case(name: str, retain: Any) -> Case:
    return Case(name, retain, make_method(name, retain=retain, layers=(0, 1)))


@pytest.fixture(scope="module")
def rows(small: Subject) -> list[dict[str, Any]]:
    model, prompt = small
    cases = [case("sparsevlm+", 0.5), case("sparsevlm+", 12), case("random", 12)]
    ticks: list[int] = []
    found = bench(
        model, repeat_prompt(prompt, 2), cases, repeats=2, steps=3, progress=lambda: ticks.append(1)
    )
    assert len(ticks) == 3 * (1 + 2 * 3)
    assert not hasattr(model.get_decoder(), "_sparsesight_hooks")
    return found


def test_a_row_for_each_case(rows: list[dict[str, Any]]) -> None:
    assert [(x["method"], x["retain"]) for x in rows] == [
        ("sparsevlm+", 0.5),
        ("sparsevlm+", 12),
        ("random", 12),
    ]
    for row in rows:
        assert (row["batch"], row["visual"], row["text"]) == (2, 36, 12)
        assert row["settings"]["layers"] == (0, 1)
        assert row["prefill_ratio_to_limit"] == pytest.approx(row["prefill_speedup"] / row["macs_limit"])
        assert row["kv_sparse_bytes"] < row["peak_sparse_bytes"] < row["peak_dense_bytes"]
        for kind in ("", "_cpu"):
            assert 0 < row[f"overhead_share{kind}"] < 1 and row[f"products_limit{kind}"] > 0
            assert row[f"overhead_share{kind}"] == pytest.approx(sum(row[f"overhead_parts{kind}"].values()))
            assert list(row[f"overhead_us{kind}"]) == list(PARTS) and row[f"overhead_us{kind}"]["layout"] > 0
            for phase in ("dense", "sparse"):
                share = row[f"roofline_{phase}"]["bound_ms"] / row[f"prefill_{phase}{kind}_ms"]
                assert row[f"roofline_share_{phase}{kind}"] == share > 0
        assert row["kv_held_dense_bytes"] == row["kv_dense_bytes"]
        assert row["kv_held_sparse_bytes"] == row["kv_sparse_bytes"]
        for phase in ("dense", "sparse"):
            assert row[f"kv_{phase}_bytes"] < row[f"least_peak_{phase}_bytes"] < row[f"peak_{phase}_bytes"]
        assert 0 < row["kernels_dense"] < row["kernels_sparse"] < row["operations_sparse"]
        assert all(row["spread"][k]["min"] <= row[k] <= row["spread"][k]["max"] for k in row["spread"])
        assert len(row["spread"]) == 8


def test_the_whole_call_takes_longer_than_its_decoder(rows: list[dict[str, Any]]) -> None:
    """Not a race: the decoder is a part of the call, in every single run."""
    for row in rows:
        for kind in ("dense", "sparse"):
            whole, part = (row["spread"][f"{x}_{kind}_ms"] for x in ("first_token", "prefill"))
            assert all(whole[k] > part[k] > 0 for k in whole)


def test_counts_are_those_of_the_report(small: Subject, rows: list[dict[str, Any]]) -> None:
    model, prompt = small
    with sparsify(model, rows[1]["method"], retain=12, layers=(0, 1)) as run:
        run_once(model, repeat_prompt(prompt, 2), 0)
    report, row = run.report, rows[1]
    sample = report.samples[0]
    assert (row["macs_dense"], row["macs_sparse"]) == (report.macs_dense, report.macs_sparse)
    assert row["macs_overhead"] == 2 * sample.macs_scoring > 0
    assert row["macs_limit"] == pytest.approx(sample.macs_dense / (sample.macs_sparse - sample.macs_scoring))
    assert (row["kv_dense_bytes"], row["kv_sparse_bytes"]) == (report.kv_bytes_dense, report.kv_bytes_sparse)
    assert row["equal_tokens"] == sample.equal_tokens < row["equal_tokens_entering"] < 36
    assert row["visual_per_layer"] == sample.visual_per_layer


def test_every_turn_runs_what_it_is_called(small: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each turn once: dense, sparse, and the sparse lengths without a mechanism."""
    model, prompt = small
    decoder = model.get_decoder()
    inside: list[str] = []
    seen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def named(manager: Any, name: str) -> Any:
        @contextmanager
        def entered(*args: Any, **options: Any) -> Iterator[Any]:
            with manager(*args, **options) as run:
                inside.append(name)
                yield run
                inside.remove(name)

        return entered

    def watched(model: Any, prompt: Any, steps: int, times: Any = None) -> Any:
        widths: list[int] = []
        hooks = [  # not of the last layer: after it, a sparse run has its full length again
            layer.register_forward_hook(lambda m, a, out: widths.append(out.shape[1]))
            for layer in decoder.layers[:-1]
        ]
        cache = run_once(model, prompt, steps, times)
        for hook in hooks:
            hook.remove()
        seen.append((tuple(inside), tuple(widths)))
        return cache

    monkeypatch.setattr(runs, "run_once", watched)
    monkeypatch.setattr(runs, "sparsify", named(runs.sparsify, "sparse"))
    monkeypatch.setattr(runs, "shortened", named(runs.shortened, "bare"))
    (row,) = bench(model, prompt, [case("random", 12)], repeats=1, steps=0)
    lengths = tuple(12 + v for v in row["visual_per_layer"][:-1])
    assert lengths[-1] < 48
    first, *turns = seen[: -2 * runs.SHARES]  # after them the shares of the mechanism
    assert first == ((), (48,) * 3)
    expected = [first, (("bare",), lengths), (("sparse",), lengths)]
    assert sorted(turns[:3]) == sorted(turns[3:]) == expected


def test_the_fast_path_beside_the_dense_model_on_it(small: Subject) -> None:
    """Every segment is a program by the time the clock starts, and the programs compute what is measured."""
    model, prompt = small
    cases = [case("sparsevlm+", 12), case("random", 12)]
    ticks: list[int] = []
    rows = bench(
        model, prompt, cases, repeats=2, steps=1, progress=lambda: ticks.append(1), fast=Fast("plain")
    )
    assert len(ticks) == 3 * (2 + 2 * 2)
    for row in rows:
        fast = row["fast"]
        assert fast["segments"] == fast["programs"] == 3 and fast["why_not"] == []
        assert fast["prefill_dense_ms"] < fast["first_token_dense_ms"]
        assert min(fast[f"{x}_speedup"] for x in ("prefill", "prefill_dense", "first_token")) > 0
    made = {table.title: table for table in tables(rows)}
    (title,) = (title for title in made if "fast path" in title)
    assert made[title].cells[1][-2:] == ["3", "3"]
    assert not any("ordinary way" in text for text in remarks(rows))


def test_why_the_fast_path_was_not_taken_is_said(small: Subject) -> None:
    model, prompt = small
    masked = repeat_prompt(prompt, 2)
    masked["attention_mask"] = masked["attention_mask"].clone()
    masked["attention_mask"][1, 0] = 0
    (row,) = bench(model, masked, [case("random", 12)], repeats=1, steps=0, fast=Fast("plain"))
    assert row["fast"]["programs"] == 0
    assert any("3 of 3 segments ran the ordinary way, because there is a mask" in x for x in remarks([row]))


class Packed(torch.nn.Linear):
    """A linear layer whose weights are bytes in a row, as quantised ones have them."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        packed = plain.weight.detach().clone().view(torch.uint8).reshape(-1, 1)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)  # type: ignore[assignment]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight = self.weight.reshape(self.out_features, -1).view(torch.float32)
        return torch.nn.functional.linear(input, weight)


def test_products_of_packed_weights_are_those_of_their_layers() -> None:
    model, prompt = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    for layer in model.get_decoder().layers:
        for part in (layer.self_attn, layer.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(part, name, Packed(module))
    (row,) = bench(model, prompt, [case("sparsevlm+", 12)], repeats=1, steps=0)
    assert row["products_limit"] > 0 and row["products_limit_cpu"] > 0 and row["measured_limit"] > 0


def test_no_steps_and_no_time_for_a_token(small: Subject) -> None:
    (row,) = bench(*small, [case("random", 12)], repeats=1, steps=0)
    assert row["token_dense_ms"] is row["token_sparse_cpu_ms"] is None and len(row["spread"]) == 6


def test_nothing_to_measure(small: Subject) -> None:
    with pytest.raises(SparseSightError, match=r"retain=1\.0"):
        bench(*small, [case("random", 1.0)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_on_a_gpu() -> None:
    model, prompt = random_llava(Shape.parse(SMALL), torch.bfloat16, "cuda")
    (row,) = bench(model, prompt, [case("sparsevlm+", 12)], repeats=2, steps=2)
    assert 0 < row["prefill_sparse_ms"] < row["first_token_sparse_ms"]
    assert 0 < row["kv_sparse_bytes"] < row["peak_sparse_bytes"] < row["peak_dense_bytes"]
    assert 0 < row["overhead_share"] < 1
    (row,) = bench(model, prompt, [case("sparsevlm+", 12)], repeats=1, steps=0, fast=Fast("graph"))
    assert row["fast"]["programs"] == row["fast"]["segments"] == 3


def test_the_first_footprint_is_not_the_first_run(small: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device allocates once and for good would be counted for the dense model alone."""
    model, prompt = small
    before: list[int] = []
    passed: list[int] = []
    count = runs.footprint

    def counted(*args: Any) -> Any:
        before.append(len(passed))
        return count(*args)

    monkeypatch.setattr(runs, "footprint", counted)
    hook = model.get_decoder().register_forward_hook(lambda *_: passed.append(1))
    try:
        bench(model, prompt, [case("random", 12)], repeats=1, steps=0)
    finally:
        hook.remove()
    assert before == [1, 2]
