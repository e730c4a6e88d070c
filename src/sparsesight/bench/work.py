"""What is measured: a prefill with some greedy steps, the bare arithmetic of a schedule, and its products alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..hf.cache import cache_among, cache_name
from ..hf.layer_inputs import NOT_ROWS, take_rows
from .ceilings import activations, linears, product
from .timing import FIRST, TOKEN, Mark, Times, mark, settle


@torch.no_grad()
def run_once(model: Any, prompt: dict[str, Any], steps: int, times: Times | None = None) -> Any:
    """A prefill and ``steps`` greedy decoding steps, timed as whole calls; returns the cache."""
    device = prompt["input_ids"].device
    settle(device)
    moments = [mark(device)]
    out = model(**prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    moments.append(mark(device))
    mask = prompt["attention_mask"]
    for _ in range(steps):
        mask = torch.cat((mask, mask.new_ones(mask.shape[0], 1)), 1)
        position = mask.sum(1, keepdim=True) - 1
        held = {cache_name(out): cache_among(out)}
        out = model(input_ids=token, attention_mask=mask, position_ids=position, **held)
        token = out.logits[:, -1:].argmax(-1)
        moments.append(mark(device))
    if times is not None:
        for i, (start, end) in enumerate(pairwise(moments)):
            times.add(TOKEN if i else FIRST, start, end)
    return cache_among(out)


@torch.no_grad()
def products(layers: Sequence[nn.Module], rows: Sequence[int]) -> tuple[Mark, Mark]:
    """Multiply with the :func:`linears` of all layers, ``rows[i]`` rows in layer ``i``, and nothing else; when it was.

    The weights are those of the model, layer after layer, so no cache holds them.
    """
    made: dict[tuple[Any, ...], Tensor] = {}
    work: list[list[tuple[Callable[[Tensor], Any], Tensor]]] = []
    for layer, n in zip(layers, rows, strict=True):
        device, dtype = activations(layer)
        work.append([])
        for linear, (width, _) in linears(layer):
            key = width, dtype, device
            if key not in made:
                made[key] = torch.ones(max(rows), width, dtype=dtype, device=device)
            work[-1].append((product(linear), made[key][:n]))
    device = activations(layers[0])[0]
    settle(device)
    start = mark(device)
    for multiply, x in (each for layer in work for each in layer):
        multiply(x)
    return start, mark(device)


@contextmanager
def shortened(decoder: nn.Module, length: int, lengths: Sequence[int]) -> Iterator[None]:
    """Give layer ``i`` only the first ``lengths[i]`` of ``length`` rows: the arithmetic of pruning, nothing chosen.

    What this costs is the ceiling of this machine for that schedule: short inputs use its arithmetic less well.
    """

    def shorten(n: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            rows = torch.arange(n, device=hidden.device).expand(hidden.shape[0], -1)
            mask = kwargs.get("attention_mask")
            kwargs = {k: take_rows(v, rows, length) for k, v in kwargs.items() if k not in NOT_ROWS}
            kwargs["attention_mask"] = None if mask is None else mask[..., :n, :n]
            return (hidden[:, :n],), kwargs

        return hook

    layers: Any = decoder.layers
    hooks = [
        layer.register_forward_pre_hook(shorten(n), with_kwargs=True)
        for layer, n in zip(layers, lengths, strict=True)
        if n < length
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
