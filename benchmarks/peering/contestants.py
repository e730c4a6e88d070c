"""The contestants: which settings of each are compared with which of ours, and each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTERS = Path(__file__).resolve().parent
TILE = 576


class Failed(SystemExit):
    """What went wrong, in one sentence."""


@dataclass(frozen=True)
class Setting:
    """A setting of a peer, and ours with the same counts at the same layers."""

    name: str
    options: dict[str, Any]
    ours: str


@dataclass(frozen=True)
class Known:
    """A peer: its adapter, its environment variables, and its settings for a number of pictures."""

    repository: str
    adapter: str
    settings: Callable[[int], Sequence[Setting]]
    environment: tuple[tuple[str, str], ...] = ()


def _v2(tiles: int) -> Iterator[Setting]:
    more = "layers=(2,6,15),heads=14,gravity_floor=None,always_drop=True,judged_by='prompt'"
    for name, counts in ((192, "300,200,118"), (64, "66,34,20")):
        yield Setting(str(name), {"retain": name}, f"sparsevlm+(retain=({counts}),{more})")


def _v1_5(tiles: int) -> Iterator[Setting]:
    more = "layers=(2,6,15),positions='compact',always_drop=True,judged_by='prompt'"
    for name, counts in ((192, "300,200,110"), (64, "66,30,17")):
        yield Setting(str(name), {"retain": name}, f"sparsevlm(retain=({counts}),{more})")


def _fastv(tiles: int) -> Iterator[Setting]:
    for rank in (tiles * TILE // 2, tiles * TILE // 4):
        ours = f"fastv(retain=({rank},),layers=(1,),judged_by='prompt')"
        yield Setting(f"{rank} from layer 2", {"retain": rank, "after": 2}, ours)


def _divprune(tiles: int) -> Iterator[Setting]:
    for count in (192, 64):
        ours = f"divprune(retain={count},positions='compact',judged_by='prompt')"
        yield Setting(str(count), {"share": count / (tiles * TILE)}, ours)


def _visionzip(tiles: int) -> Iterator[Setting]:
    for dominant, contextual in ((162, 30), (54, 10)) if tiles == 1 else ((27, 5),):
        total = tiles * (dominant + contextual)
        share = contextual / (dominant + contextual)
        more = f"contextual={share},add=True,positions='compact',per_frame={tiles > 1},judged_by='prompt'"
        options = {"dominant": dominant, "contextual": contextual}
        yield Setting(str(total), options, f"visionzip(retain={total},{more})")


def _cdpruner(tiles: int) -> Iterator[Setting]:
    for count in (192, 64) if tiles == 1 else (32,):
        more = (
            f"guide='text-tower',opposite=True,positions='compact',per_frame={tiles > 1},judged_by='prompt'"
        )
        yield Setting(str(tiles * count), {"retain": count}, f"cdpruner(retain={tiles * count},{more})")


GITHUB = "https://github.com/"
KNOWN = {
    "sparsevlm-v2.0": Known(GITHUB + "Gumpest/SparseVLMs", "sparsevlms", _v2, (("USE_VERSION", "2_0"),)),
    "sparsevlm-v1.5": Known(GITHUB + "Gumpest/SparseVLMs", "sparsevlms", _v1_5),
    "sparsevlm-main-1_0": Known(
        GITHUB + "Gumpest/SparseVLMs", "sparsevlms", _v1_5, (("USE_VERSION", "1_0"),)
    ),
    "fastv": Known(GITHUB + "pkunlp-icler/FastV", "fastv", _fastv),
    "divprune": Known(GITHUB + "vbdi/divprune", "divprune", _divprune),
    "visionzip": Known(GITHUB + "dvlab-research/VisionZip", "visionzip", _visionzip),
    "cdpruner": Known(GITHUB + "Theia-4869/CDPruner", "cdpruner", _cdpruner),
}


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, python: str, environment: dict[str, str], job: dict[str, Any]) -> None:
        self.name = name
        try:
            self.process = subprocess.Popen(
                [python, str(ADAPTERS / "worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise Failed(f"{name}: its python {python!r} does not start ({error})") from None
        self.said = self.ask(job)
        if "failed" in self.said:
            raise Failed(f"{name}: {self.said['failed']}")

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send a line and wait for the answer; ``failed`` in it is what the contestant's code raised."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(
                f"{self.name}: its process ended with status {self.process.wait()}; it says why above"
            )
        said: dict[str, Any] = json.loads(answer)
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
def working(
    name: str, python: str, environment: dict[str, str], adapter: str, job: dict[str, Any]
) -> Iterator[Worker]:
    """A loaded contestant."""
    worker = Worker(name, python, environment, {**job, "adapter": str(ADAPTERS / f"{adapter}.py")})
    try:
        yield worker
    finally:
        worker.close()
