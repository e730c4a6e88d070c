"""``sparsesight bench``: what it prints and writes, and what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import bench
from sparsesight.bench import runs
from sparsesight.bench.fits import fits
from sparsesight.bench.table import tables
from tests.bench.small import SMALL
from tests.commands.running import plain_surroundings, refused, run  # noqa: F401

QUICK = ("--layers", "0,1", "--repeats", "1", "--steps", "1")


def test_methods_batches_and_lengths_side_by_side() -> None:
    sweep = ("--methods", "dense,sparsevlm+, random(seed=3)", "--batch", "1,2", "--visual", "36,64")
    result = run("bench", "--shape", SMALL, "--retain", "0.5,12", *sweep, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert set(data) == {"config", "rows"} and data["config"]["torch"] == torch.__version__
    seen = [(row["visual"], row["batch"], row["method"], row["retain"]) for row in data["rows"]]
    assert seen == [
        (v, b, m, r)
        for v in (36, 64)
        for b in (1, 2)
        for m in ("sparsevlm+", "random(seed=3)")
        for r in (0.5, 12)
    ]
    doubled = {(row["visual"], row["batch"]): row["flops_dense"] for row in data["rows"]}
    assert doubled[36, 2] == 2 * doubled[36, 1]


def test_tables_and_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "runs" / "growth"
    result = run("bench", "--shape", SMALL, "--retain", "0.5", "--visual", "36,64", *QUICK, "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert "FLOPs" in result.stdout and "measured ceilings of this device" in result.stdout
    heads = [
        word for made in tables(json.loads((out / "bench.json").read_text())["rows"]) for word in made.heads
    ]
    assert all(word in result.stdout for head in heads for word in head.split())  # at 80 columns
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.md", "growth-batch1.png"]
    assert len(json.loads((out / "bench.json").read_text())["rows"]) == 2


def test_what_fits_into_a_memory(tmp_path: Path) -> None:
    sweep = ("--visual", "36,64", "--batch", "1,3", "--memory", "0.1", "--out", str(tmp_path / "out"))
    result = run("bench", "--shape", SMALL, "--retain", "0.5", "--repeats", "1", "--steps", "0", *sweep)
    assert result.exit_code == 0, result.stderr
    assert "What fits into 0.1 GB" in result.stdout
    page = (tmp_path / "out" / "bench.md").read_text()
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    for table in fits(rows, 1e8):
        assert len(table.cells) == 2
        for cells in table.cells:
            assert "| " + " | ".join(cells) + " |" in page
            assert int(cells[3]) > int(cells[4]) > 36


def test_a_sweep_that_is_stopped_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def once(*arguments: Any, **options: Any) -> Any:
        if measured:
            raise KeyboardInterrupt
        measured.append(1)
        return runs.bench(*arguments, **options)

    monkeypatch.setattr(bench, "bench", once)
    out = ("--out", str(tmp_path / "out"))
    result = run("bench", "--shape", SMALL, "--retain", "0.5", "--batch", "1,2", *QUICK, *out)
    assert result.exit_code != 0
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert [row["batch"] for row in rows] == [1]


def test_costs_that_cannot_be_equal_are_said() -> None:
    """Pruning after the second layer at the earliest, nothing costs as little as what is asked for."""
    how = ("--retain", "1", "--layers", "1,2", "--repeats", "1", "--steps", "0")
    result = run("bench", "--shape", SMALL, "--methods", "random", *how)
    assert result.exit_code == 0, result.stderr
    assert "do NOT cost the same" in " ".join(result.stdout.split())


def test_the_bundled_model() -> None:
    result = run("bench", "--retain", "0.5", "--repeats", "1", "--steps", "1", "--threads", "1", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["config"]["subject"] == "bundled" and data["rows"][0]["visual"] == 576


def test_the_version_in_the_environment() -> None:
    how = ("--shape", SMALL, "--retain", "0.5", *QUICK, "--json")
    data = json.loads(run("bench", *how, USE_VERSION="1_0").stdout)
    assert [row["method"] for row in data["rows"]] == ["sparsevlm"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "layers=4,hiden=64"], "hiden=64"),
        (["--shape", SMALL, "--model", "x"], "--model and --shape"),
        (["--visual", "36,64"], "--visual '36,64' needs --shape"),
        (["--shape", SMALL, "--visual", "36,none"], "--visual '36,none'"),
        (["--shape", SMALL, "--batch", "1,1"], "--batch '1,1'"),
        (["--shape", SMALL, "--batch", "0"], "--batch '0'"),
        (["--shape", SMALL, "--memory", "24"], "give --batch or --visual two or more"),
        (["--retain", ","], "with commas between them"),
        (["--retain", "(24,12)"], "no equal of another method"),
        (["--retain", "many"], "is no budget"),
        (["--methods", "fastest"], "fastest"),
        (["--methods", "dense"], "at least one beside dense"),
        (["--shape", "layers=32", "--retain", "1"], "possible are"),
        (["--shape", SMALL, "--retain", "40"], "keeps all 36 visual tokens"),
        (["--shape", SMALL, "--retain", "40", "--visual", "64,36"], "keeps all 36 visual tokens"),
        (["--shape", SMALL, "--retain", "0.5", "--dtype", "int8"], "int8"),
        (["--shape", SMALL, "--retain", "0.5", "--device", "tpu0"], "tpu0"),
        (["--shape", SMALL, "--retain", "0.5", "--out", "/dev/null/x"], "choose another folder"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    assert message in refused(run("bench", *arguments))
