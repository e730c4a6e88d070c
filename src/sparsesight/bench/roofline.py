"""The least time of a prefill on this device, by its arithmetic, the bytes it moves and its kernel launches.

The bound is what no implementation of these layers, run one after the other, undercuts: a layer takes at least as long
as its multiply-adds, and at least as long as reading its weights once, reading and writing the hidden states once and
writing its keys and values. Of attention only what lies below the diagonal counts, which is all that a causal kernel
needs; the *FLOPs limit* counts the full square by convention. Kernels are those that the decoder launches as it is, the
mechanism's included. On a CPU launching adds to computing, on CUDA the two overlap and the longer one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..macs import DecoderShape
from .ceilings import Ceilings

WORTH_IT = 1.1  # a speed-up below this is not promised to anybody
REASONS = {
    "arithmetic": "its multiply-adds",
    "bytes": "reading the weights, which takes as long for few tokens as for many",
    "launches": "launching kernels, as many for few tokens as for many",
}


@dataclass(frozen=True)
class Bound:
    """Least milliseconds of a prefill.

    Attributes:
        macs_ms: of its multiply-adds alone.
        bytes_ms: of its bytes alone.
        launch_ms: of its kernel launches alone.
        bound_ms: of all three, layer by layer.
    """

    macs_ms: float
    bytes_ms: float
    launch_ms: float
    bound_ms: float

    @property
    def decides(self) -> str:
        """Which of the three takes longest."""
        each = {"arithmetic": self.macs_ms, "bytes": self.bytes_ms, "launches": self.launch_ms}
        return max(each, key=lambda name: each[name])


def bound(
    ceilings: Ceilings,
    shape: DecoderShape,
    weights: Sequence[int],
    entering: Sequence[int],
    batch: int,
    kernels: int,
) -> Bound:
    """The least time of a prefill.

    Args:
        ceilings: of the device.
        shape: of the decoder.
        weights: bytes of each layer's parameters.
        entering: tokens of a sample, text included, that enter each layer.
        batch: samples, all alike.
        kernels: that the decoder launches in it.
    """
    macs, moved = [], []
    for layer, weight, n in zip(shape.layers, weights, entering, strict=True):
        macs.append(
            1e3 * batch * (n * layer.linear + 2 * _seen(n, layer.window) * layer.width) / ceilings.macs
        )
        numbers = batch * n * (layer.cached + 2 * shape.hidden)
        moved.append(1e3 * (weight + shape.kv_bytes * numbers) / ceilings.bytes)
    launch = 1e3 * kernels * ceilings.launch
    device = sum(map(max, macs, moved))
    return Bound(sum(macs), sum(moved), launch, device + launch if ceilings.serial else max(device, launch))


def _seen(rows: int, window: int | None) -> int:
    """Pairs of a row and a key that it may see: itself, and what lies before it in its window."""
    window = min(window or rows, rows)
    return rows * window - window * (window - 1) // 2


def token_ms(ceilings: Ceilings, weights: int, cached: int) -> float:
    """Least milliseconds of a further token: all weights and the whole cache are read once."""
    return 1e3 * (weights + cached) / ceilings.bytes


def roofline(ceilings: Ceilings, dense: Bound, sparse: Bound, row: dict[str, Any]) -> dict[str, Any]:
    """What stands in the row of a case: bounds, how much of the measured time they are, and the speed-up they allow.

    ``row`` has the measured times.
    """
    made: dict[str, Any] = {"ceilings": asdict(ceilings)}
    for kind, least in (("dense", dense), ("sparse", sparse)):
        made[f"roofline_{kind}"] = {**asdict(least), "decides": least.decides}
        for clock in ("", "_cpu"):
            made[f"roofline_share_{kind}{clock}"] = least.bound_ms / row[f"prefill_{kind}{clock}_ms"]
    made["roofline_speedup"] = dense.bound_ms / sparse.bound_ms
    return made


def no_gain(row: dict[str, Any]) -> str | None:
    """Why a prefill cannot become faster, where it cannot; else None."""
    if row["macs_limit"] < WORTH_IT:
        return (
            f"the FLOPs limit itself is {row['macs_limit']:.2f}x: {row['equal_tokens']:.0f} of {row['visual']} visual "
            f"tokens stay on average, beside {row['text']} of text"
        )
    if row["roofline_speedup"] < WORTH_IT:
        least = row["roofline_sparse"]
        part = {"arithmetic": "macs_ms", "bytes": "bytes_ms", "launches": "launch_ms"}[least["decides"]]
        return (
            f"what takes longest on this device is {REASONS[least['decides']]} ({least[part]:.2f} ms of at least "
            f"{least['bound_ms']:.2f} ms)"
        )
    return None
