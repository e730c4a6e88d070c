"""Commands whose output cannot be written: a full disk gets one sentence, a reader that left gets none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.command_line import plain_surroundings  # noqa: F401

FULL = Path("/dev/full")
COMMANDS = {
    "nothing": (),
    "version": ("--version",),
    "help": ("ask", "--help"),
    "methods": ("methods",),
    "doctor": ("doctor",),
    "ask": ("ask", "--max-new-tokens", "1"),
    "ask as JSON": ("ask", "--max-new-tokens", "1", "--json"),
    "bench": ("bench", "--repeats", "1", "--steps", "1", "--retain", "64"),
    "eval": ("eval", "--tasks", "scenes", "--limit", "1", "--retain", "64", "--out", "run"),
    "demo": ("demo", "--max-new-tokens", "1"),
}


def started(where: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, whose standard output is no file with room for it."""
    read, write = os.pipe()
    os.close(read)
    target = os.open(FULL, os.O_WRONLY) if where == "full" else os.dup(write)
    os.close(write)
    try:
        return subprocess.run(
            [sys.executable, "-m", "sparsesight", *arguments],
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        os.close(target)


def check(where: str, name: str) -> None:
    done = started(where, *COMMANDS[name])
    *told, last = done.stderr.splitlines() or [""]
    assert "Traceback" not in done.stderr, done.stderr
    if where == "left":
        assert done.returncode == 1 and last == ""
    else:
        assert done.returncode == 2
        assert last.startswith("error: what it prints cannot be written (No space left on device): make room")
    assert not [line for line in told if "rror" in line]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    check("full", "nothing")


def test_a_reader_that_left() -> None:
    check("left", "version")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["", "--version", "x", "ask --retain x"])
def test_nothing_can_be_said(arguments: str) -> None:
    """Neither the output nor why there is none."""
    command = f"exec {sys.executable} -m sparsesight {arguments} > /dev/full 2> /dev/full"
    assert subprocess.run(["sh", "-c", command], timeout=300, check=False).returncode == 2


def test_no_output_is_wanted() -> None:
    command = f"exec {sys.executable} -m sparsesight --version >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("where", ["full", "left"])
def test_every_command(where: str, name: str) -> None:
    check(where, name)
