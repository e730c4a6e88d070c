"""Memory, cached bytes and torch operations of one prefill, counted instead of timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..profiling.op_counter import Count, Operations
from .timing import peak_bytes
from .work import run_once


@dataclass(frozen=True)
class Footprint:
    """Counts of a whole prefill, including the vision tower and excluding weights.

    Attributes:
        peak: the most bytes that tensors took at once.
        kv: bytes of the storages that its cache holds at the end.
        decoder: the torch operations of the decoder.
    """

    peak: int
    kv: int
    decoder: Count


def footprint(model: Any, prompt: dict[str, Any], decoder: nn.Module) -> Footprint:
    """Run a prefill and count."""
    held: list[int] = []

    def work() -> None:
        cache = run_once(model, prompt, 0)
        stored = [
            x
            for layer in cache.layers
            for x in (getattr(layer, "keys", None), getattr(layer, "values", None))
        ]
        held.append(sum(x.untyped_storage().nbytes() for x in stored if x is not None))

    with _counted(decoder) as counted:
        peak = peak_bytes(next(decoder.parameters()).device, work)
    return Footprint(peak, held[0], counted.parts.get("decoder", Count()))


@contextmanager
def _counted(decoder: nn.Module) -> Iterator[Operations]:
    """Within it, operations are counted by whether the decoder runs, hooks on it included."""
    inside: list[bool] = []
    hooks = [
        decoder.register_forward_pre_hook(lambda *a: inside.append(True), prepend=True),
        decoder.register_forward_hook(lambda *a: inside.clear()),
    ]
    try:
        with Operations(lambda: "decoder" if inside else "outside") as counted:
            yield counted
    finally:
        for hook in hooks:
            hook.remove()
