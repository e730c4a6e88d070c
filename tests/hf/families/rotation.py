"""What a pruning layer's own rotary embedding does to a vector of ones."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

UNTURNED = ("cos", "sin", "freqs_cis")  # arguments of such functions that are tensors, but no queries or keys


@contextmanager
def rotated_ones(decoder: nn.ModuleList, layers: tuple[int, ...]) -> Iterator[dict[int, list[Tensor]]]:
    """Within it, collect what the rotation of each layer's queries and keys makes of ones, as the layer has them.

    A layer without rotation collects nothing. Results are those of the model all the same.
    """
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    inside: list[int] = []
    hooks, undo = [], []
    for layer in layers:
        owner = decoder[layer]
        attention = owner.self_attn if hasattr(owner, "self_attn") else owner.mixer
        hooks.append(attention.register_forward_pre_hook(lambda *_, i=layer: inside.append(i)))
        hooks.append(attention.register_forward_hook(lambda *_: inside.clear()))
        for kind in type(attention).__mro__:
            module = sys.modules[kind.__module__]
            for name, function in vars(module).items():
                if (
                    name.startswith("apply_")
                    and "rot" in name
                    and (module, name) not in [u[:2] for u in undo]
                ):
                    undo.append((module, name, function))
    for module, name, function in undo:
        setattr(module, name, _spy(function, found, inside))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for module, name, function in undo:
            setattr(module, name, function)


def _spy(function: Any, found: dict[int, list[Tensor]], inside: list[int]) -> Any:
    names = list(inspect.signature(function).parameters)

    def spy(*args: Any, **kwargs: Any) -> Any:
        if inside:
            given = dict(zip(names, args, strict=False)) | kwargs
            turned = {
                name: torch.ones_like(value)
                for name, value in given.items()
                if name not in UNTURNED and isinstance(value, Tensor) and value.ndim == 4
            }
            out = function(**{**given, **turned})
            for one in out if isinstance(out, tuple) else (out,):
                found[inside[-1]].append(one)
        return function(*args, **kwargs)

    return spy
