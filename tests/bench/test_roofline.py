"""Bounds worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparsesight.bench.ceilings import Ceilings
from sparsesight.bench.roofline import Bound, bound, no_gain, roofline, token_ms
from sparsesight.macs import DecoderShape, LayerShape

# Two layers of 1000 multiply-adds a token; 10 numbers cached and 8 of hidden state, of 2 bytes.
SHAPE = DecoderShape(hidden=8, layers=(LayerShape(1000, 8, 10),) * 2, kv_bytes=2)
DEVICE = Ceilings(macs=1e6, bytes=1e6, launch=1e-5, serial=True)


def test_a_layer_takes_as_long_as_the_longer_of_its_work_and_its_bytes() -> None:
    weights = [70_000, 3000]
    found = bound(DEVICE, SHAPE, weights, [10, 4], batch=3, kernels=20)
    macs = [3 * (10 * 1000 + 2 * 55 * 8), 3 * (4 * 1000 + 2 * 10 * 8)]  # 1 + 2 + ... keys are seen
    moved = [70_000 + 2 * 3 * 10 * 26, 3000 + 2 * 3 * 4 * 26]
    assert macs[0] < moved[0] and macs[1] > moved[1]
    assert found.macs_ms == pytest.approx(sum(macs) / 1000)
    assert found.bytes_ms == pytest.approx(sum(moved) / 1000)
    assert found.launch_ms == pytest.approx(0.2)
    device = (moved[0] + macs[1]) / 1000
    assert found.bound_ms == pytest.approx(device + 0.2)
    assert found.decides == "bytes"
    # On CUDA kernels are launched while others run.
    side_by_side = replace(DEVICE, serial=False)
    assert bound(side_by_side, SHAPE, weights, [10, 4], 3, 20).bound_ms == pytest.approx(device)
    assert bound(side_by_side, SHAPE, weights, [10, 4], 3, 10**5).bound_ms == pytest.approx(1000)


@pytest.mark.parametrize("window", [None, 1, 3, 10, 99])
def test_attention_needs_what_a_row_may_see(window: int | None) -> None:
    rows = torch.arange(10)
    distance = rows[:, None] - rows
    pairs = int(((distance >= 0) & (distance < (window or 10))).sum())
    layers = (LayerShape(0, 8, 0, window),)
    found = bound(DEVICE, DecoderShape(hidden=8, layers=layers), [0], [10], batch=1, kernels=0)
    assert found.macs_ms == pytest.approx(2 * pairs * 8 / 1000)


def test_a_token_reads_everything_once() -> None:
    assert token_ms(DEVICE, 70_000, 30_000) == pytest.approx(100)


def row_of(**changes: Any) -> dict[str, Any]:
    row = {
        "prefill_dense_ms": 40.0,
        "prefill_dense_cpu_ms": 32.0,
        "prefill_sparse_ms": 20.0,
        "prefill_sparse_cpu_ms": 10.0,
        "macs_limit": 4.0,
        "equal_tokens": 64.2,
        "visual": 576,
        "text": 64,
    }
    return {**row, **changes}


def test_shares_and_the_limit() -> None:
    dense, sparse = Bound(15, 5, 1, 16), Bound(3, 4, 2, 8)
    made = roofline(DEVICE, dense, sparse, row_of())
    assert made["roofline_speedup"] == 2
    assert (made["roofline_share_dense"], made["roofline_share_dense_cpu"]) == (0.4, 0.5)
    assert (made["roofline_share_sparse"], made["roofline_share_sparse_cpu"]) == (0.4, 0.8)
    assert made["roofline_sparse"]["decides"] == "bytes" and made["roofline_dense"]["decides"] == "arithmetic"
    assert made["ceilings"] == {"macs": 1e6, "bytes": 1e6, "launch": 1e-5, "serial": True}


@pytest.mark.parametrize(
    ("sparse", "said"),
    [
        (
            Bound(8, 14, 1, 15),
            r"longest on this device is reading the weights.*\(14\.00 ms of at least 15\.00 ms\)",
        ),
        (Bound(8, 2, 15, 15), r"longest on this device is launching kernels.*\(15\.00 ms of at least"),
        (Bound(14, 2, 1, 15), r"longest on this device is its multiply-adds \(14\.00 ms"),
    ],
)
def test_why_there_is_no_gain(sparse: Bound, said: str) -> None:
    row = row_of()
    row |= roofline(DEVICE, Bound(15, 5, 1, 16), sparse, row)
    found = no_gain(row)
    assert found is not None
    assert re.search(said, found) and "limit" not in found  # the screen has one, that of FLOPs


def test_a_gain_needs_no_words() -> None:
    row = row_of()
    row |= roofline(DEVICE, Bound(15, 5, 1, 16), Bound(3, 4, 2, 8), row)
    assert no_gain(row) is None
    assert no_gain(row | {"macs_limit": 1.04}) == (
        "the FLOPs limit itself is 1.04x: 64 of 576 visual tokens stay on average, beside 64 of text"
    )
