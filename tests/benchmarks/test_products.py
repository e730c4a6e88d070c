"""A layer's matrix products by rows. No test looks at speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.conftest import script


def test_a_row_for_each_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "products.json"
    sizes = ["--shape", "layers=2,hidden=64,ffn=96", "--rows", "3,8", "--repeats", "2", "--out", str(out)]
    before = torch.get_num_threads()
    try:
        script("products").main(sizes)
    finally:
        torch.set_num_threads(before)
    found = json.loads(out.read_text())
    assert [row["rows"] for row in found["rows"]] == [3, 8] and found["torch"] == torch.__version__
    weights = 4 * 64 * 64 + 3 * 64 * 96
    for row in found["rows"]:
        assert row["gmacs"] == pytest.approx(row["rows"] * weights / row["cpu_ms"] / 1e6)
    assert capsys.readouterr().out.startswith("3 rows: ")


def test_packed_products_are_the_same_products() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False))
    module = script("products")
    found = module.packed_products([layer], 4)
    if found is None:
        pytest.skip("this torch packs no weights")
    seen: list[torch.Tensor] = []
    multiply = torch.ops.mkl._mkl_linear

    packed = torch.ops.mkl._mkl_reorder_linear_weight(layer[0].weight.detach(), 4)
    seen.append(multiply(torch.ones(4, 8), packed, layer[0].weight.detach(), None, 4))
    assert found[1].wall > found[0].wall
    torch.testing.assert_close(seen[0], torch.nn.functional.linear(torch.ones(4, 8), layer[0].weight))
