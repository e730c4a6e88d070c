"""Tables of rows, their files and their drawings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import SparseSightError
from sparsesight.bench import Case, bench
from sparsesight.bench.fits import fits
from sparsesight.bench.folder import check_folder, save
from sparsesight.bench.headline import headlines, own_work, summary
from sparsesight.bench.table import ceilings, equality, markdown, remarks, tables
from sparsesight.equal_cost import STANDS_FOR
from sparsesight.methods import make_method
from sparsesight.random_models import Shape, random_llava

CONFIG = {"subject": "tiny", "threads": 1}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    cases = [Case(x, 0.5, make_method(x, retain=0.5, layers=(0,))) for x in ("random", "sparsevlm+")]
    found = []
    for visual in (36, 64):
        shape = Shape.parse(f"layers=3,hidden=64,ffn=96,visual={visual},text=12")
        found += bench(*random_llava(shape, torch.float32, "cpu"), cases, repeats=1, steps=1)
    return found


def test_tables_name_what_varies(rows: list[dict[str, Any]]) -> None:
    for made in tables(rows):
        assert made.heads[:3] == ["method", "retain", "visual"] and "batch" not in made.heads
        assert [cells[:3] for cells in made.cells] == [
            [name, "0.5", visual] for visual in ("36", "64") for name in ("random", "sparsevlm+")
        ]
        assert all(len(cells) == len(made.heads) for cells in made.cells)
    assert tables(rows[:2])[0].heads[:3] == ["method", "retain", "prefill ms"]
    deeper = [*rows, *({**row, "depth": 5} for row in rows)]
    assert tables(deeper)[0].heads[2:4] == ["visual", "depth"] and tables(deeper)[0].cells[4][3] == "5"


def test_cells_are_the_numbers_of_the_rows(rows: list[dict[str, Any]]) -> None:
    row = rows[3]
    prefill, tokens, roofline, bound, overhead, sizes, memory = (
        dict(zip(x.heads[3:], x.cells[3][3:], strict=True)) for x in tables(rows)
    )
    assert prefill["prefill ms"] == f"{row['prefill_sparse_ms']:.1f}"
    assert prefill["overhead"].startswith(f"{100 * row['overhead_share']:.1f}% (")
    assert tokens["first token ms"] == f"{row['first_token_sparse_ms']:.1f}"
    assert sizes["KV MB"] == f"{row['kv_sparse_bytes'] / 1e6:.2f}"
    assert roofline["at least ms"] == f"{row['roofline_sparse']['bound_ms']:.2f}"
    assert roofline["device limit"] == f"{row['roofline_speedup']:.2f}"
    assert bound["kernels"] == str(row["kernels_sparse"])
    assert overhead["masks"] == f"{row['overhead_us']['masks']:.0f} ({row['overhead_us_cpu']['masks']:.0f})"
    assert memory["peak MB"] == f"{row['peak_sparse_bytes'] / 1e6:.2f}"
    assert tables([{**row, "token_sparse_ms": None}])[1].cells[0][-2] == "-"


def test_headlines_are_the_numbers_of_the_rows(rows: list[dict[str, Any]]) -> None:
    def turns(low: float, high: float) -> dict[str, Any]:
        stalled = {"min": 0.1, "q1": low, "q3": high, "max": 9.0}  # a stalled turn says nothing
        return {"spread": {**rows[0]["spread"], "prefill_speedup": stalled}}

    measured = {"prefill_speedup": 2.349, "macs_limit": 2.5, "overhead_share": 0.03, **turns(2.2, 2.55)}
    small = [{**row, "method": "fastv", **measured} for row in rows[:2]]
    small[1] |= {"retain": 12, "prefill_speedup": 0.91, "settings": {"retain": 12}, **turns(0.8, 0.98)}
    assert headlines(small) == [
        "fastv: prefill 2.3x faster (2.2 to 2.5) at retain 0.5 (limit 2.50x), "
        "0.91x as fast (0.80 to 0.98) at 12 (2.50x)"
    ]
    assert headlines([{**small[0], "batch": 1}, {**small[0], "batch": 8}]) == [
        f"fastv, batch {n}: prefill 2.3x faster (2.2 to 2.5) at retain 0.5 (limit 2.50x)" for n in (1, 8)
    ]
    alone = {**small[0], "retain": None}
    assert headlines([alone]) == ["fastv: prefill 2.3x faster (2.2 to 2.5; limit 2.50x)"]
    once = {**alone, **turns(2.349, 2.349)}  # a single turn has no spread
    assert headlines([once]) == ["fastv: prefill 2.3x faster (limit 2.50x)"]
    shares = [{**alone, "overhead_share": share} for share in (0.66, 0.7)]
    assert headlines(shares[:1]) == headlines([alone]) and own_work([alone]) == []
    assert own_work([*shares, {**shares[0], "method": "dart"}]) == [
        "of this small prefill, methods' own work is up to 70% (fastv) and 66% (dart)"
    ]


@pytest.mark.parametrize("ratio", [0.93, 1.05, 1.2])
def test_what_is_not_told_from_dense_is_neither_praised_nor_blamed(
    rows: list[dict[str, Any]], ratio: float
) -> None:
    noise = {"spread": {**rows[0]["spread"], "prefill_speedup": {"q1": 0.9, "q3": 1.3}}}
    noisy = {**rows[0], "prefill_speedup": ratio, "macs_limit": 2.5, "overhead_share": 0.66, **noise}
    shown = f"{ratio:.1f}" if ratio > 1.15 else f"{ratio:.2f}"
    assert headlines([{**noisy, "retain": None}]) == [
        f"random: prefill {shown}x as fast (0.90 to 1.3; limit 2.50x); not told apart from dense"
    ]
    clear = {"prefill_speedup": 2.0, "spread": {"prefill_speedup": {"q1": 1.9, "q3": 2.2}}}
    settings = {"settings": {"retain": 12}, "overhead_share": 0.2}
    assert headlines([noisy, {**noisy, **clear, **settings, "retain": 12}]) == [
        f"random: prefill {shown}x as fast (0.90 to 1.3) at retain 0.5 (limit 2.50x), "
        "2.0x faster (1.9 to 2.2) at 12 (2.50x); not told apart from dense at 0.5"
    ]
    assert own_work([noisy]) == []
    assert own_work([noisy, {**noisy, **clear, **settings}]) == [
        "of this small prefill, methods' own work is up to 20% (random)"
    ]


def test_a_budget_that_is_not_the_method_s_own_retain_is_told_from_it(rows: list[dict[str, Any]]) -> None:
    """At equal cost ``retain=64`` of the reference may be 117 of another: ``retain`` has one meaning, and what was
    asked for is the one budget in sight; the table of sizes has the other."""
    own = {"settings": {"method": "fastv", "retain": 117}, "overhead_share": 0.0, "prefill_speedup": 2.3}
    fitted = [{**rows[0], "retain": 64, "roofline_speedup": 1.0, **own}]
    (line,) = headlines(fitted)
    assert "2.3x faster at budget 64 (limit" in line and "117" not in line
    assert STANDS_FOR in summary(fitted).title and STANDS_FOR not in summary(rows).title
    assert STANDS_FOR in markdown(CONFIG, fitted) and "random, budget 64, " in remarks(fitted)[0]
    for made in (summary(fitted), *tables(fitted)):
        assert made.heads[:2] == ["method", "budget"] and made.cells[0][1] == "64"
        sizes = made.title.startswith("Visual tokens")
        assert ("117" in made.cells[0]) == sizes and ("own retain" in made.heads) == sizes
    (fit,) = fits([{**fitted[0], "batch": 1}, {**fitted[0], "batch": 2}], 16)
    assert fit.heads[:2] == ["method", "budget"]
    composed = [{**fitted[0], "settings": {"method": "compose", "parts": []}}]
    assert summary(composed).heads[:2] == ["method", "retain"]


def test_the_summary_has_one_row_each(rows: list[dict[str, Any]]) -> None:
    made = summary(rows)
    assert made.heads[:4] == ["method", "retain", "visual", "prefill ms"]
    cells = dict(zip(made.heads, made.cells[3], strict=True))
    assert cells["faster"] == f"{rows[3]['prefill_speedup']:.2f}x"
    assert cells["prefill ms"].startswith(f"{rows[3]['prefill_sparse_ms']:.1f} (")
    turns = {"prefill_sparse_ms": {"min": 1, "q1": 20, "q3": 30, "max": 900}}
    (row,) = summary([{**rows[3], "spread": {**rows[3]["spread"], **turns}}]).cells
    assert row[2].endswith(" (20-30)") and "quartiles" in made.title
    assert cells["KV cache"] == f"{rows[3]['kv_sparse_bytes'] / rows[3]['kv_dense_bytes']:.0%}"


def test_remarks(rows: list[dict[str, Any]]) -> None:
    fine = [{**row, "macs_limit": 2.0, "roofline_speedup": 1.5} for row in rows]
    assert remarks(fine) == []
    said = ceilings(fine)
    assert len(said) == 2 and all("G multiply-adds/s" in text for text in said)  # of each length
    said = remarks([{**fine[0], "macs_limit": 1.05}])
    assert "no gain here, because the FLOPs limit itself is 1.05x" in said[0] and len(said) == 1


def test_unequal_costs_are_said(rows: list[dict[str, Any]]) -> None:
    assert "cost the same prefill FLOPs" in equality(rows) and equality(rows) in markdown(CONFIG, rows)
    other = [*rows[1:], {**rows[0], "cost_deviation": -0.118}]
    assert "do NOT cost the same: their prefill FLOPs are up to 11.8 % off" in equality(other)
    assert any("11.8 % fewer FLOPs than sparsevlm+ at that retain" in text for text in remarks(other))


def test_markdown_has_all_tables(rows: list[dict[str, Any]]) -> None:
    page = markdown(CONFIG, rows)
    assert "subject tiny, threads 1" in page
    lines = page.splitlines()
    for made in tables(rows):
        head = lines.index("| " + " | ".join(made.heads) + " |")
        assert lines[head + 2 : head + 6] == ["| " + " | ".join(cells) + " |" for cells in made.cells]


def test_a_folder_of_results(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    check_folder(folder)
    save(folder, CONFIG, rows[:2])
    data = json.loads((folder / "bench.json").read_text())
    assert data["config"] == CONFIG and [x["method"] for x in data["rows"]] == ["random", "sparsevlm+"]
    assert (folder / "bench.md").read_text() == markdown(CONFIG, rows[:2])


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SparseSightError, match=r"no/folder': its parent directory does not exist, create it first"
    ):
        check_folder(tmp_path / "no" / "folder")
    with pytest.raises(SparseSightError, match=r"file' cannot be written .*choose another folder"):
        check_folder(tmp_path / "file")
