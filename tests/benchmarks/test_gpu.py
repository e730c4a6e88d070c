"""`make bench-gpu`: rehearsed on a CPU by the program that a GPU would run, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpu
from benchmarks.on_gpu import checks, pages
from benchmarks.on_gpu.plan import REHEARSAL, Device, Run, runs, vllm_command
from sparsesight.commands.cli import app
from sparsesight.random_models import Shape

ROOT = Path(__file__).parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def stands() -> dict[str, str]:
    return {page: (ROOT / page).read_text("utf-8") for page in pages.PAGES}


@no_gpu
def test_without_a_gpu_one_sentence(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = stands()
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr()
    assert said.err.startswith("no GPU: torch finds no CUDA device here") and said.err.count("\n") == 1
    assert not said.out and not (tmp_path / "out").exists() and stands() == before


run_program = subprocess.run


def here(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """The program's result in this process; what it calls itself (git, for the commit) runs as always."""
    if command[:3] != [sys.executable, "-m", "sparsesight"]:
        return run_program(command, **options)
    result = CliRunner().invoke(app, command[3:])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(command, result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rehearsal_runs_all_of_it_and_leaves_the_pages_alone(
    processes: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands that a GPU gets, at a tiny shape: measure, write the pages, go on where it was."""
    if not processes:
        monkeypatch.setattr(subprocess, "run", here)
    before = stands()
    assert gpu.main(["--rehearse", str(tmp_path)]) == 0, capfd.readouterr().out
    assert stands() == before and not (ROOT / "benchmarks/results/gpu").exists()
    written = {page: (tmp_path / page).read_text("utf-8") for page in pages.PAGES}
    for page, text in written.items():
        head, tail = before[page].split(pages.BEGIN)[0], before[page].split(pages.END)[1]
        assert text.startswith(head) and text.endswith(tail) and text != before[page]
    table = written["benchmarks/README.md"].split(pages.BEGIN)[1].split(pages.END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| 36")]
    assert (
        len(rows) == 2 * 4
        and {row[2] for row in rows} == {"sdpa", "fast"}
        and {row[1] for row in rows} == {"2"}
    )
    assert all(len(row) == len(pages.HEADS) for row in rows)
    assert "batch 2: " in written["README.md"] and "x / " in written["README.md"]

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("a run that was done is run again")

    monkeypatch.setattr(subprocess, "run", again)
    assert gpu.main(["--rehearse", str(tmp_path)]) == 0


def test_a_rehearsal_never_gets_into_the_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a rehearsal measures nothing"):
        pages.write(ROOT, tmp_path, runs(REHEARSAL), {}, rehearsal=True)
    assert not (ROOT / "benchmarks/results/gpu/runs.json").exists() or '"rehearsal": false' in (
        ROOT / "benchmarks/results/gpu/runs.json"
    ).read_text("utf-8")


def test_a_device_that_computes_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checks.deviation(REHEARSAL, False) < checks.TOLERANCE
    real = checks.oracle_logits

    def everything(model: Any, ids: Any, kept: Any, layers: Any, **how: Any) -> Any:
        return real(model, ids, [torch.arange(64) for _ in kept], layers, **how)

    monkeypatch.setattr(checks, "oracle_logits", everything)  # the dense model sees what was dropped
    assert gpu.main(["--rehearse", str(tmp_path)]) == 1
    assert "numbers would be wrong" in capsys.readouterr().err and not (tmp_path / "results").exists()


def test_what_does_not_fit_is_named_and_too_little_for_anything_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, clips = Device(), Run("clips", 16384, 32)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert Run("one", 576, 1).least_bytes(device) == pytest.approx(2 * weights, rel=0.05)
    keys = 32 * (16384 + 64) * 2 * 32 * 4096 * 2
    assert clips.least_bytes(device) > 2 * weights + keys
    assert gpu.measured(clips, device, tmp_path, 80 << 30, 100.0) == "needs 301 GiB, 80 GiB are free"
    monkeypatch.setattr(checks, "free_bytes", lambda device: 1000)
    assert gpu.main(["--rehearse", str(tmp_path)]) == 1
    assert "but the smallest run needs" in capsys.readouterr().err


def test_failures_and_the_end_of_the_hour_are_told(tmp_path: Path) -> None:
    assert gpu.ran(["false"], 10.0) == "failed: no message"
    assert (
        gpu.ran(["sh", "-c", "echo 'Error: out | of memory' >&2; exit 1"], 10.0)
        == "failed: Error: out / of memory"
    )
    assert gpu.ran(["sleep", "10"], 0.05) == gpu.ran(["true"], -1.0) == gpu.LATE


def test_the_plan_covers_what_is_asked() -> None:
    planned = runs(Device())
    plain = {(run.visual, run.batch) for run in planned if run.attention == "sdpa" and not run.fast}
    assert plain == {(v, b) for v in (576, 2880, 16384) for b in (1, 8, 32)}
    assert [run for run in planned if run.fast] and len({run.name for run in planned}) == len(planned)
    command = vllm_command(Device(), "python", Path("out"))
    shape = Shape.parse(command[command.index("--shape") + 1])
    assert (shape.layers, shape.hidden, shape.visual) == (32, 4096, 576)
