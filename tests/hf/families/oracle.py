"""The oracle for any family: dense generation in which, after each stage, no layer sees what was dropped.

Attention masks lose the columns of dropped tokens. Layers without attention (recurrent, convolutional) run over the
tokens that are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparsesight.hf.families import ModelParts


@contextmanager
def blinded(parts: ModelParts, gone: dict[int, Tensor], length: int) -> Iterator[None]:
    """Within it, layer `i` does not see the tokens `gone[i]` (int64 [k], places in the unpadded prompt of
    `length` tokens).

    For a single sample, and eager attention, which always takes a mask.
    """
    hooks = []
    for index, places in gone.items():
        layer = parts.layers[index]
        if parts.kinds[index].attends:
            hooks.append(layer.register_forward_pre_hook(_hide(places, length), with_kwargs=True))
        elif parts.kinds[index].kind not in ("moe", "mlp"):  # those see one token at a time
            mixer = next(getattr(layer, n) for n in ("linear_attn", "conv", "mixer") if hasattr(layer, n))
            hooks += _shorten(mixer, places)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hide(places: Tensor, length: int) -> Any:
    seen = [length - 1]

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        hidden = args[0] if args else kwargs["hidden_states"]
        rows = hidden.shape[-2]
        seen[0] += 1  # the prompt, then token by token
        first = seen[0] - mask.shape[-1]  # a sliding cache has dropped the keys before
        columns = places[places >= first] - first
        own = places if rows == length else places[:0]  # some layers get the prompt's last row alone
        changed = mask.clone()
        worst = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        changed[..., columns] = worst
        if len(own):  # their own rows, which nobody looks at, must not be empty
            changed[..., own, own - first] = True if mask.dtype == torch.bool else 0.0
        return args, {**kwargs, "attention_mask": changed}

    return hook


def _shorten(mixer: Any, places: Tensor) -> list[Any]:
    stay: list[Any] = [None, 0]

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        stay[0] = None
        if hidden.shape[1] == 1:
            return None
        keep = torch.ones(hidden.shape[1], dtype=torch.bool)
        keep[places] = False
        stay[:] = keep, hidden.shape[1]

        def cut(value: Any) -> Any:
            rows = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == stay[1]
            return value[:, keep] if rows else value

        return tuple(cut(a) for a in args), {k: cut(v) for k, v in kwargs.items()}

    def after(module: Any, args: Any, output: Any) -> Any:
        if stay[0] is None:
            return None
        short = output[0] if isinstance(output, tuple) else output
        full = short.new_zeros(short.shape[0], stay[1], short.shape[2])
        full[:, stay[0]] = short
        return (full, *output[1:]) if isinstance(output, tuple) else full

    return [mixer.register_forward_pre_hook(before, with_kwargs=True), mixer.register_forward_hook(after)]
