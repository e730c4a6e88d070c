"""``sparsesight bench``: what it prints and writes, and what it refuses before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsesight
from sparsesight import CDPruner, SparseVLM, bench, bundled
from sparsesight.bench import runs
from sparsesight.bench.fits import fits
from sparsesight.bench.headline import headlines
from sparsesight.bench.table import tables
from tests.bench.small import SMALL
from tests.commands.command_line import plain_surroundings, refused, run  # noqa: F401

LLAVA_LIKE = "layers=32,hidden=32,ffn=32,heads=2,text=8"  # its depth and visual tokens
QUICK = ("--layers", "0,1", "--repeats", "1", "--steps", "1")


@pytest.mark.parametrize("retain", [(0.5,), pytest.param((0.5, 12), marks=pytest.mark.slow)], ids=str)
def test_methods_batches_and_lengths_side_by_side(retain: tuple[float, ...]) -> None:
    sweep = ("--methods", "dense,sparsevlm+, random(seed=3)", "--batch", "1,2", "--visual", "36,64")
    budgets = ",".join(map(str, retain))
    result = run("bench", "--shape", SMALL, "--retain", budgets, *sweep, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert set(data) == {"config", "rows"} and data["config"]["torch"] == torch.__version__
    seen = [(row["visual"], row["batch"], row["method"], row["retain"]) for row in data["rows"]]
    assert seen == [
        (v, b, m, r)
        for v in (36, 64)
        for b in (1, 2)
        for m in ("sparsevlm+", "random(seed=3)")
        for r in retain
    ]
    doubled = {(row["visual"], row["batch"]): row["macs_dense"] for row in data["rows"]}
    assert doubled[36, 2] == 2 * doubled[36, 1]


def test_tables_and_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    result = run(
        "bench",
        "--shape",
        SMALL,
        "--retain",
        "0.5",
        "--visual",
        "36,64",
        *QUICK,
        "--details",
        "--out",
        str(out),
    )
    assert result.exit_code == 0, result.stderr
    assert "FLOPs" in result.stdout and "measured ceilings of this device" in result.stdout
    heads = [
        word for made in tables(json.loads((out / "bench.json").read_text())["rows"]) for word in made.heads
    ]
    assert all(word in result.stdout for head in heads for word in head.split())  # at 80 columns
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.md"]
    assert len(json.loads((out / "bench.json").read_text())["rows"]) == 2


def test_the_speed_comes_first_and_one_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep = ("--methods", "sparsevlm+,random", "--visual", "36,64", "--out", str(out))
    result = run("bench", "--shape", SMALL, "--retain", "0.5,12", *sweep, *QUICK, COLUMNS="100")
    assert result.exit_code == 0, result.stderr
    rows = json.loads((out / "bench.json").read_text())["rows"]
    assert " ".join(result.stdout.split()).startswith(" ".join(" ".join(headlines(rows)).split()))
    assert result.stdout.count("KV cache") == 1 and "measured ceilings" not in result.stdout
    lines = result.stdout.splitlines()
    assert "--details prints all tables" in result.stdout and max(len(line.rstrip()) for line in lines) <= 100
    assert all(f"{row['prefill_speedup']:.2f}x" in result.stdout for row in rows)


def test_the_fast_path() -> None:
    result = run("bench", "--shape", SMALL, "--retain", "0.5", "--fast", "plain", "--details", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "The fast path: sparse and dense on it" in result.stdout


def test_a_folder_without_a_parent_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom sparsesight.commands.cli import app\n"
        "try: app(['bench', '--out', 'no/folder'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sparsesight.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n"
    assert "--out 'no/folder': its parent directory does not exist" in done.stderr


def test_what_fits_into_a_memory(tmp_path: Path) -> None:
    sweep = ("--visual", "36,64", "--batch", "1,3", "--memory", "0.1", "--out", str(tmp_path / "out"))
    result = run("bench", "--shape", SMALL, "--retain", "0.5", "--repeats", "1", "--steps", "0", *sweep)
    assert result.exit_code == 0, result.stderr
    assert "What fits into 0.1 GB" in result.stdout
    page = (tmp_path / "out" / "bench.md").read_text()
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    for table in fits(rows, 0.1):
        assert len(table.cells) == 2
        for cells in table.cells:
            assert "| " + " | ".join(cells) + " |" in page
            assert int(cells[4]) > int(cells[5]) > 36


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


def test_the_version_in_the_environment() -> None:
    """It is the published setting at the budget, whatever that costs; layers are a part of it."""
    how = ("--shape", LLAVA_LIKE, "--retain", "192", "--repeats", "1", "--steps", "0", "--json")
    (row,) = json.loads(run("bench", *how, USE_VERSION="1_0").stdout)["rows"]
    assert (row["method"], row["retain"]) == ("sparsevlm:published", 192)
    assert row["settings"] == json.loads(json.dumps(SparseVLM.published(192).to_dict()))
    assert row["visual_per_layer"][-1] == 113
    assert "leave them out" in refused(run("bench", *how, "--layers", "0,1", USE_VERSION="1_0"))


@pytest.mark.slow
def test_a_published_setting_without_a_budget() -> None:
    how = ("--shape", LLAVA_LIKE, "--methods", "pyramiddrop:published", "--repeats", "1", "--steps", "0")
    result = run("bench", *how, "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["rows"]
    assert row["retain"] is None and row["visual_per_layer"][-1] == 72


def test_the_same_average_for_all() -> None:
    how = ("--shape", SMALL, "--retain", "0.5", "--methods", "random", *QUICK, "--json", "--same-retain")
    (row,) = json.loads(run("bench", *how).stdout)["rows"]
    assert row["settings"]["retain"] == 0.5


def test_the_bundled_model_with_a_text_tower(tmp_path: Path) -> None:
    """CDPruner as published, with a CLIP whose vision tower is the bundled model's."""
    from tests.hf.vision.text_towers import clip_of, text_tokenizer

    clip_of(bundled.load()[0]).save_pretrained(tmp_path / "clip")
    text_tokenizer().save_pretrained(tmp_path / "clip")
    how = (
        "--methods",
        "cdpruner:published,random",
        "--retain",
        "64",
        "--repeats",
        "1",
        "--steps",
        "1",
        "--threads",
        "1",
        "--json",
    )
    tower = ("--text-tower", str(tmp_path / "clip"))
    result = run("bench", *how, *tower)
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    first, _ = data["rows"]
    assert data["config"]["subject"] == "bundled" and first["visual"] == 576
    assert first["settings"] == json.loads(json.dumps(CDPruner.published(64).to_dict()))
    assert "reads a text tower: give the CLIP" in refused(run("bench", *how))
    assert "has no CLIP" in refused(run("bench", *how, *tower, "--shape", SMALL))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "layers=4,hiden=64"], "hiden=64"),
        (["--shape", SMALL, "--model", "bundled"], "--model and --shape"),
        (["--visual", "36,64"], "--visual '36,64' needs --shape"),
        (["--shape", SMALL, "--fast", "warp"], "runner='warp' is unknown: use one of graph, compile, plain"),
        (["--shape", SMALL, "--visual", "36,none"], "--visual '36,none'"),
        (["--shape", SMALL, "--batch", "1,1"], "--batch '1,1'"),
        (["--shape", SMALL, "--batch", "0"], "--batch '0'"),
        (["--shape", SMALL, "--memory", "24"], "give two or more values of --batch or --visual"),
        (["--retain", ","], "with commas between them"),
        (["--retain", "(24,12)"], "bench takes averages and ratios"),
        (["--retain", "many"], "is not a budget"),
        (["--methods", "fastest"], "fastest"),
        (["--methods", "dense"], "at least one method besides dense"),
        (["--shape", "layers=32", "--retain", "1"], "possible are"),
        (["--methods", "sparsevlm+", "--shape", SMALL, "--retain", "40"], "keeps all 36 visual tokens"),
        (
            ["--methods", "random", "--shape", SMALL, "--retain", "40", "--visual", "64,36"],
            "keeps all 36 visual tokens",
        ),
        (["--shape", SMALL, "--retain", "0.5", "--dtype", "int8"], "int8"),
        (["--shape", SMALL, "--retain", "0.5", "--device", "tpu0"], "tpu0"),
        (["--shape", SMALL, "--retain", "0.5", "--out", "/dev/null/x"], "create it first"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    assert message in refused(run("bench", *arguments))
