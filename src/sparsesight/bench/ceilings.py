"""Peak rates of a device, measured in the process that is compared with them, not taken from a data sheet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hf.linear import is_quantised, linear_sizes
from ..provenance import plain_tensors
from .timing import settle

REPEATS = 5
LAUNCHES = 1000
# Rows up to which a matrix product gains from more of them, and bytes that no cache holds.
ROWS = {"cpu": 1024, "cuda": 16384}
BUFFER = {"cpu": 1 << 27, "cuda": 1 << 29}


@dataclass(frozen=True)
class Ceilings:
    """Rates that nothing on this device exceeds.

    Attributes:
        macs: multiply-adds a second, in matrix products of the decoder's own shapes and dtype.
        bytes: a second, read from memory or copied there.
        launch: seconds until an operation on a single number is done, one of many in a row.
        serial: whether launching and computing add up (CPU), or go on side by side (CUDA).
    """

    macs: float
    bytes: float
    launch: float
    serial: bool

    def best(self, other: Ceilings) -> Ceilings:
        """The better rate of two measurements each: the other one was disturbed."""
        return Ceilings(
            max(self.macs, other.macs),
            max(self.bytes, other.bytes),
            min(self.launch, other.launch),
            self.serial,
        )


def ceilings(layer: nn.Module, rows: int) -> Ceilings:
    """Measure the device that a decoder layer is on.

    Args:
        layer: its :func:`linears` are multiplied with.
        rows: of a prefill; no more are used than make the product faster.
    """
    found = linears(layer)
    device, dtype = activations(layer)
    rows = min(rows, ROWS[device.type])
    with torch.no_grad():
        spent, macs = 0.0, 0
        for (width, out), count in Counter(sizes for _, sizes in found).items():
            multiply = product(next(m for m, sizes in found if sizes == (width, out)))
            x = torch.randn(rows, width, device=device, dtype=dtype)
            spent += count * fastest(device, lambda x=x, work=multiply: work(x))  # type: ignore[misc]
            macs += count * rows * out * width
        return Ceilings(
            macs / spent if spent else float("inf"),
            _bandwidth(device, dtype),
            _launch(device),
            device.type == "cpu",
        )


def linears(layer: nn.Module) -> list[tuple[nn.Module, tuple[int, int]]]:
    """What hidden states are multiplied with, and its sizes, input first; not experts that are no linear layers."""
    return [(m, sizes) for m in layer.modules() if (sizes := linear_sizes(m)) is not None]


def product(linear: nn.Module) -> Callable[[Tensor], Any]:
    """A linear layer's product alone, or all that a quantised one does."""
    if is_quantised(linear):
        return linear.forward
    weight = linear.weight
    return lambda x: nn.functional.linear(x, weight)  # type: ignore[arg-type]


def activations(layer: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of what a decoder layer computes with."""
    plain = [p for p in layer.parameters() if type(p) is nn.Parameter and p.is_floating_point()]
    return plain[0].device, plain[0].dtype


def _bandwidth(device: torch.device, dtype: torch.dtype) -> float:
    size = BUFFER[device.type]
    here = torch.ones(size // 4, device=device)
    there = torch.empty_like(here)
    matrix = here.view(dtype).view(-1, 4096)
    vector = torch.ones(4096, device=device, dtype=dtype)
    return max(
        2 * size / fastest(device, lambda: there.copy_(here)),
        size / fastest(device, here.sum),
        size / fastest(device, lambda: matrix @ vector),
    )


def _launch(device: torch.device) -> float:
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    return fastest(device, many, threads=1) / LAUNCHES


def fastest(device: torch.device, work: Callable[[], Any], threads: int | None = None) -> float:
    """Seconds of the fastest of some runs; on a CPU of processor time, in which other programs do not count.

    That is divided by the ``threads`` that work, by default all that torch uses.
    """
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    share = (threads or torch.get_num_threads()) if on_cpu else 1
    took = []
    for _ in range(REPEATS + 1):
        settle(device)
        start = clock()
        work()
        settle(device)
        took.append((clock() - start) / share)
    return max(min(took[1:]), 1e-9)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters, shared ones once."""
    parts = (part for p in module.parameters() for part in plain_tensors(p))
    seen: dict[int, Tensor] = {p.untyped_storage()._cdata: p for p in parts}
    return sum(p.numel() * p.element_size() for p in seen.values())
