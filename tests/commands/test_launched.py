"""``sparsesight eval`` in several processes, as launchers start and number them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sparsesight import SparseSightError
from sparsesight.commands.cli import app
from sparsesight.eval.distributed import Ranks
from sparsesight.eval.options import EvalOptions
from sparsesight.eval.prepare import own_device, prepare_tasks

SWEEP = ("eval", "--tasks", "scenes", "--limit", "7", "--batch-size", "3", "--device", "cpu")
HOW = ("--methods", "random,sparsevlm+", "--retain", "64", "--out", "run")
TORCHRUN, ACCELERATE = "torch.distributed.run", "accelerate.commands.launch"
LAUNCHERS = {
    TORCHRUN: ("--standalone", "--nproc_per_node", "2"),
    # The name means no GPU: it is accelerate's only way to number processes of one machine.
    ACCELERATE: ("--multi_gpu", "--num_processes", "2"),
}


def surroundings(**more: str) -> dict[str, str]:
    """The variables of this process without a numbering, and more."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    numbering = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    kept = {k: v for k, v in os.environ.items() if k not in numbering}
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def left(folder: Path, processes: int) -> dict[str, bytes]:
    """What a sweep leaves in its folder, without what tells of sessions."""
    own = ("rank0.lock", "rank1.lock", "run.json", "table.md")
    files = [x for x in folder.rglob("*") if x.is_file() and x.name not in own]
    assert (folder / "run" / "rank1.lock").exists() == (processes > 1)
    assert f'"processes": {processes},' in (folder / "run" / "run.json").read_text()
    return {str(x.relative_to(folder)): x.read_bytes() for x in files}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, [*SWEEP, *HOW])
    assert result.exit_code == 0, result.stderr
    return left(folder, 1)


def check_two(folder: Path, single: dict[str, bytes]) -> None:
    """Two processes left what one does."""
    found = left(folder, 2)
    assert "run/summary.json" in found and "run/samples/scenes/random@64.jsonl" in found
    assert found == single


def test_two_processes_leave_what_one_does(
    single: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbered as launchers do; this process is the first."""
    monkeypatch.chdir(tmp_path)
    ranks = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": "2"} for i in (0, 1)]
    command = [sys.executable, "-m", "sparsesight", *SWEEP, *HOW]
    with subprocess.Popen(command, env=surroundings(**ranks[1]), stderr=subprocess.PIPE, text=True) as second:
        result = CliRunner().invoke(app, [*SWEEP, *HOW], env=ranks[0])
        assert result.exit_code == 0, result.stderr
        assert second.communicate(timeout=300)[1] == "" and second.returncode == 0
    check_two(tmp_path, single)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_number_their_processes(launcher: str, single: dict[str, bytes], tmp_path: Path) -> None:
    if importlib.util.find_spec(launcher.split(".")[0]) is None:
        pytest.skip(f"needs {launcher}")
    command = [sys.executable, "-m", launcher, *LAUNCHERS[launcher], "-m", "sparsesight", *SWEEP, *HOW]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_two(tmp_path, single)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand-ins for a machine with two: what was made the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("task", ["scenes", "mme"])
def test_every_process_loads_on_a_gpu_of_its_own(
    device: str, task: str, two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loading(Exception):
        pass

    def scenes(name: Any, device: str, *_: Any) -> Any:
        raise Loading(device)

    def harness(name: Any, *, device: str, **_: Any) -> Any:
        raise Loading(device)

    monkeypatch.setattr("sparsesight.eval.prepare.load_model", scenes)
    if task != "scenes":
        pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")
        monkeypatch.setattr("sparsesight.eval.lmms.model.SparseSightModel", harness)
    options = EvalOptions((task,), batch_size=1, device=device)
    for rank in (2, 3):  # of the second machine
        with pytest.raises(Loading, match=f"^cuda:{rank - 2}$"):
            prepare_tasks(options, Ranks(rank, 4, rank - 2))
    assert two_gpus == [0, 1]


def test_a_device_that_is_named_is_taken(two_gpus: list[int]) -> None:
    assert own_device("cpu", Ranks(1, 2, 1)) == "cpu"
    assert own_device("cuda:0", Ranks(1, 2, 1)) == "cuda:0"
    assert own_device("cuda", Ranks()) == "cuda" and two_gpus == []
    with pytest.raises(
        SparseSightError, match=r"^--device 'cuda': process 2 .* there are 2: start one process"
    ):
        own_device("cuda", Ranks(2, 3, 2))
