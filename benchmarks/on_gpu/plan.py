"""The runs of `make bench-gpu`: sizes, batches, paths, and what memory each needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sparsesight.random_models import Shape

LLAVA_7B = "layers=32,hidden=4096,ffn=11008,heads=32,text=64"
METHODS, BUDGETS = "halves,sparsevlm+", "33%,11%"  # of 576 tokens 192 and 64
WORDS = 1000  # of a random model's vocabulary


@dataclass(frozen=True)
class Device:
    """Where runs take place, and how large they are.

    Attributes:
        name: as torch writes it.
        shape: of the random model, without its visual tokens.
        dtype: of its weights.
        visual, batches: every pair of them is a run.
        repeats, steps: of each run; long ones have fewer repeats.
        rehearsal: whether this only shows that the program works.
    """

    name: str = "cuda"
    shape: str = LLAVA_7B
    dtype: str = "bfloat16"
    visual: tuple[int, ...] = (576, 2880, 16384)
    batches: tuple[int, ...] = (1, 8, 32)
    repeats: int = 5
    steps: int = 8
    rehearsal: bool = False

    @property
    def fast(self) -> str:
        """The fast path's runner: recorded graphs, or on a CPU what compiles nothing."""
        return "graph" if self.name.startswith("cuda") else "plain"

    @property
    def number_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2


REHEARSAL = Device(
    "cpu",
    "layers=4,hidden=64,ffn=128,heads=2,text=24",
    "float32",
    (36,),
    (2,),
    repeats=1,
    steps=1,
    rehearsal=True,
)


@dataclass(frozen=True)
class Run:
    """One call of ``sparsesight bench``, or of the benchmark of vLLM."""

    name: str
    visual: int = 0
    batch: int = 0
    attention: str = "sdpa"
    fast: bool = False

    def command(self, device: Device, out: Path) -> list[str]:
        """What is typed, from the root of the repository."""
        long = self.visual * self.batch > 50_000
        words = [
            *("-m", "sparsesight", "bench", "--shape", device.shape, "--device", device.name),
            *("--dtype", device.dtype, "--methods", METHODS, "--retain", BUDGETS),
            *("--visual", str(self.visual), "--batch", str(self.batch), "--attention", self.attention),
            *("--repeats", str(min(device.repeats, 3) if long else device.repeats)),
            *("--steps", str(device.steps), "--out", str(out / self.name)),
        ]
        return [sys.executable, *words, *(("--fast", device.fast) if self.fast else ())]

    def least_bytes(self, device: Device) -> int:
        """Weights, keys and values, and the widest activations: what the dense run cannot do without."""
        shape = Shape.parse(device.shape, visual=self.visual)
        layer = shape.hidden * (
            2 * shape.hidden + 2 * shape.hidden * shape.kv_heads // shape.heads + 3 * shape.ffn
        )
        rows = self.batch * (self.visual + shape.text)
        kept = 2 * shape.layers * shape.hidden * shape.kv_heads // shape.heads
        return device.number_bytes * (
            shape.layers * layer + 2 * WORDS * shape.hidden + rows * (kept + 3 * shape.ffn)
        )


def runs(device: Device) -> list[Run]:
    """All that this machine can do, the quickest first; FlashAttention where it is installed."""
    pairs = sorted(((v, b) for v in device.visual for b in device.batches), key=lambda x: x[0] * x[1])
    found = [Run(f"sdpa-{v}-batch{b}", v, b) for v, b in pairs]
    few = device.visual[0]
    found[1:1] = [Run(f"fast-{few}-batch{b}", few, b, fast=True) for b in device.batches[:1]]
    if find_spec("flash_attn") is not None and device.name.startswith("cuda"):
        flash = [Run(f"flash-{v}-batch{b}", v, b, "flash_attention_2") for v, b in pairs if v * b < 50_000]
        found += flash
    return found


def vllm_command(device: Device, python: str, out: Path) -> list[str]:
    """Bursts of requests through vLLM, with the plugin and without it."""
    shape = device.shape.replace(f",text={Shape.parse(device.shape).text}", f",visual={device.visual[0]}")
    return [
        *(python, "benchmarks/vllm_throughput.py", "--out", str(out / "vllm"), "--shape", shape),
        *("--requests", "8,32", "--retain", "192,64", "--text", "24", "--dtype", device.dtype),
        *("--step", "8192", "--turns", "2"),
    ]
