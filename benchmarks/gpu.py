"""Fills the GPU tables of README, guide and benchmarks/README.md on a machine with a GPU.

    make bench-gpu

First it checks the GPU, its free memory, and that a small sparse prefill there is what the oracle says. Then it
measures LLaVA-1.5-7B's decoder with random weights at 1, 8 and 32 prompts of 576, 2,880 and 16,384 visual tokens, each
in a process of its own, on the fast path, with FlashAttention and in vLLM where these are installed (``--vllm PYTHON``:
the interpreter of an environment with vLLM). It begins no run after 55 minutes; called again, it goes on where it was.
``--rehearse FOLDER`` does the same in seconds on a CPU with a tiny model, and leaves the repository's pages alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sparsesight import SparseSightError

from .on_gpu import checks, pages
from .on_gpu.plan import REHEARSAL, Device, Run, runs, vllm_command

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 55 * 60
LONGEST = 15 * 60  # of one run


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    device = REHEARSAL if given.rehearse else Device()
    out: Path = given.rehearse / "results" if given.rehearse else given.out
    planned = runs(device)
    try:
        free = checks.check(device, planned)
    except SparseSightError as error:
        print(error, file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    if given.rehearse:
        for page in pages.PAGES:
            (given.rehearse / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / page, given.rehearse / page)
    states = States(
        out / "runs.json", {"device": device.name, "shape": device.shape, "rehearsal": device.rehearsal}
    )
    started = time.monotonic()
    for run in planned:
        if states[run.name] != "done":
            states[run.name] = measured(run, device, out, free, SECONDS - (time.monotonic() - started))
            print(f"{run.name}: {states[run.name]}", flush=True)
        pages.write(given.rehearse or ROOT, out, planned, states.found, device.rehearsal)
    if given.vllm and states["vllm"] != "done":
        left = SECONDS - (time.monotonic() - started)
        states["vllm"] = ran(vllm_command(device, given.vllm, out), left)
        print(f"vllm: {states['vllm']}", flush=True)
        pages.write(given.rehearse or ROOT, out, planned, states.found, device.rehearsal)
    late = [run.name for run in planned if states[run.name] == LATE]
    if late:
        print(f"not run: {', '.join(late)}; call this again to go on")
    return 0 if any(states[run.name] == "done" for run in planned) else 1


LATE = "out of time"


def measured(run: Run, device: Device, out: Path, free: int, left: float) -> str:
    """What became of a run: "done", or why it has no numbers."""
    least = run.least_bytes(device)
    if least > free:
        return f"needs {least / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
    return ran(run.command(device, out), left)


def ran(command: list[str], left: float) -> str:
    if left <= 0:
        return LATE
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=min(LONGEST, left), capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return LATE
    if done.returncode == 0:
        return "done"
    said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
    return f"failed: {said[-1][:200]}".replace("|", "/")


class States:
    """What became of every run so far, in a file."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.found = path, settings, dict[str, str]()
        if path.exists():
            data = json.loads(path.read_text("utf-8"))
            if data["settings"] != settings:
                raise SystemExit(f"{path} was made with {data['settings']}: name another --out, or remove it")
            self.found = data["runs"]

    def __getitem__(self, name: str) -> str:
        return self.found.get(name, "")

    def __setitem__(self, name: str, state: str) -> None:
        self.found[name] = state
        self.path.write_text(
            json.dumps({"settings": self.settings, "runs": self.found}, indent=1) + "\n", "utf-8"
        )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/gpu", help="folder for the results"
    )
    parser.add_argument("--vllm", default="", help="Python of an environment with vLLM and sparsesight")
    parser.add_argument(
        "--rehearse", type=Path, help="folder for results and copies of the pages, of a tiny run on a CPU"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
