"""Consecutive decoder layers as one program of a fixed shape, which a device can run without Python in between.

A program takes hidden states and rotary tables padded on the right to its own length. Attention is causal, so padding
does not affect the rows before it, and its rows are cut off again. Nothing is cached inside: keys and values are
outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

SEEN = "sparsesight_seen"  # keyword by which the probe of a layer in a program finds where to show queries and keys


class Sink:
    """Takes the place of the cache while a program's layers run, and of the probe's listener."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.query: Tensor | None = None
        self.how: dict[str, Any] = {}

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What a layer would cache; with nothing cached before, it is all that the layer sees."""
        self.keys.append(key)
        self.values.append(value)
        return key, value

    def see(self, query: Tensor, how: dict[str, Any]) -> None:
        """What the last layer's probe shows; its keys are those it caches."""
        self.query = query
        self.how = {k: v for k, v in how.items() if isinstance(v, (int, float))}


@dataclass(frozen=True)
class Output:
    """What a program returns, cut to the length that was put in."""

    hidden: Tensor  # [b, n, c]
    keys: list[Tensor]  # [b, g, n, d] of each layer
    values: list[Tensor]
    query: Tensor | None  # [b, h, n, d] of the last layer, if it is probed
    how: dict[str, Any]  # numbers its attention function was called with


Raw = tuple[Tensor, list[Tensor], list[Tensor], "Tensor | None", dict[str, Any]]
Function = Callable[..., Raw]


def function_of(
    layers: Sequence[Callable[..., Tensor]], constants: dict[str, Any], probed: Collection[int], cache: str
) -> Function:
    """Hidden states [b, n, c] and rotary tables in, :class:`Output`'s fields out; ``probed`` are places of layers.

    Args:
        cache: the keyword of the layers' cache.
    """

    def run(hidden: Tensor, cos: Tensor, sin: Tensor) -> Raw:
        sink = Sink()
        for i, layer in enumerate(layers):
            more = {SEEN: sink, cache: sink} if i in probed else {cache: sink}
            hidden = layer(hidden, **constants, position_embeddings=(cos, sin), **more)
        return hidden, sink.keys, sink.values, sink.query, sink.how

    # The compiler counts recompilations by code object: every program gets one of its own.
    return FunctionType(run.__code__.replace(), run.__globals__, "segment", None, run.__closure__)


class Program:
    """One function at one shape, with the buffers of its inputs; for one thread at a time.

    Args:
        function: of :func:`function_of`.
        inputs: hidden states and tables of the first call, [b or 1, n, ...].
        length: rows of the program, at least n.
        runner: ``"graph"`` records a CUDA graph, ``"compile"`` calls ``torch.compile``, ``"plain"`` does neither.
        pool: memory that the graphs of one thread share; what a graph returns is valid until the next one runs.
    """

    def __init__(
        self, function: Function, inputs: Sequence[Tensor], length: int, runner: str, pool: Any = None
    ) -> None:
        with torch.inference_mode(False):  # the next call may come outside of it
            self.buffers = [
                torch.zeros(x.shape[0], length, *x.shape[2:], dtype=x.dtype, device=x.device) for x in inputs
            ]
        self.run: Callable[[], Raw]
        if runner == "graph":
            self.run = _recorded(function, self.buffers, pool)
        elif runner == "compile":
            compiled = torch.compile(function, dynamic=False)
            self.run = lambda: compiled(*self.buffers)
        else:
            self.run = lambda: function(*self.buffers)

    def __call__(self, *inputs: Tensor) -> Output:
        n = inputs[0].shape[1]
        with torch.inference_mode(False), torch.no_grad():
            for buffer, x in zip(self.buffers, inputs, strict=True):
                buffer[:, :n].copy_(x)
                buffer[:, n:].zero_()  # also what an earlier, longer call left there
            hidden, keys, values, query, how = self.run()
        return Output(
            hidden[:, :n],
            [x[:, :, :n] for x in keys],
            [x[:, :, :n] for x in values],
            None if query is None else query[:, :, :n],
            how,
        )


def _recorded(function: Function, buffers: list[Tensor], pool: Any) -> Callable[[], Raw]:
    """A CUDA graph of the function on these buffers."""
    device = buffers[0].device
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):  # libraries allocate their workspaces in the first calls
            function(*buffers)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = function(*buffers)

    def replay() -> Raw:
        graph.replay()
        return output

    return replay
