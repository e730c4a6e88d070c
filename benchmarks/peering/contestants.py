"""The contestants: read from a list, and each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADAPTERS = Path(__file__).resolve().parent
KEYS = {"name", "adapter", "python", "checkout", "model", "options", "environment"}


class Failed(SystemExit):
    """What went wrong, in one sentence."""


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: dict[str, Any], job: dict[str, Any]) -> None:
        self.name = contestant["name"]
        environment = {**os.environ, **contestant.get("environment", {})}
        try:
            self.process = subprocess.Popen(
                [contestant.get("python") or sys.executable, str(ADAPTERS / "worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise Failed(
                f"{self.name}: its python {contestant['python']!r} does not start ({error})"
            ) from None
        self.said = self.ask(json.dumps(job))

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(
                f"{self.name}: its process ended with status {self.process.wait()}; it says why above"
            )
        said: dict[str, Any] = json.loads(answer)
        if "failed" in said:
            raise Failed(f"{self.name}: {said['failed']}")
        return said

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextmanager
def working(contestant: dict[str, Any], job: dict[str, Any]) -> Iterator[Worker]:
    """A loaded contestant."""
    worker = None
    try:
        worker = Worker(contestant, job)
        yield worker
    finally:
        if worker is not None:
            worker.close()


def read_contestants(path: Path) -> list[dict[str, Any]]:
    """Check the list of contestants.

    Raises:
        Failed: naming the entry and what is wrong with it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failed(f"--contestants {path}: {error}") from None
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(x, dict) for x in found):
        raise Failed(f"--contestants {path}: give a list of two objects or more")
    for entry in found:
        unknown = sorted(set(entry) - KEYS)
        if unknown or not {"name", "adapter"} <= set(entry):
            wrong = f"{unknown} are unknown" if unknown else "it needs name and adapter"
            which = entry.get("name", entry)
            raise Failed(f"--contestants {path}: {which!r}: {wrong}; an entry may have {sorted(KEYS)}")
    return found


def usual(checkout: Path, python: str | None, model: str, retain: int, version: str) -> list[dict[str, Any]]:
    """SparseVLM's own code beside ours."""
    theirs = {"adapter": "llava", "python": python, "checkout": str(checkout), "model": model}
    method = {"1_0": "sparsevlm", "1_5": "sparsevlm", "2_0": "sparsevlm+"}[version]
    variables = {"RETAIN_TOKN": str(retain), "USE_VERSION": version}
    return [
        {"name": "dense", "adapter": "ours"},
        {
            "name": f"{method}, {retain}",
            "adapter": "ours",
            "options": {"method": f"{method}(retain={retain})"},
        },
        {"name": "checkout, dense", **theirs, "options": {"dense": True}, "environment": variables},
        {"name": f"checkout, {retain}", **theirs, "environment": variables},
    ]
