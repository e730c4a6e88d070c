"""The oracle for any family: dense generation in which, after each stage, no layer sees what was dropped.

Attention masks lose the columns of dropped tokens. Layers without attention (recurrent, convolutional) run over the
tokens that are left. What a layer is comes from the family's description in these tests, not from the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MIXERS = ("linear_attn", "conv", "mixer")


@contextmanager
def blinded(layers: nn.ModuleList, kinds: str, gone: Mapping[int, Tensor]) -> Iterator[None]:
    """Within it, layer `i` does not see the tokens `gone[i]` (int64 [k], places in the unpadded chat).

    For a single sample, one chat from its first token on, and eager attention, which always takes a mask. `gone` may
    grow from turn to turn.
    """
    span = [0, 0]  # the tokens of the forward in flight: from, to

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        span[:] = span[1], span[1] + hidden.shape[-2]

    hooks = [layers[0].register_forward_pre_hook(begin, with_kwargs=True)]
    for index, kind in enumerate(kinds):
        if kind in "fw":
            hide = _hide(index, gone, span)
            hooks.append(layers[index].register_forward_pre_hook(hide, with_kwargs=True))
        elif kind == "r":
            mixer = next(getattr(layers[index], n) for n in MIXERS if hasattr(layers[index], n))
            hooks += _shorten(mixer, index, gone, span)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hide(index: int, gone: Mapping[int, Tensor], span: Sequence[int]) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        places, (begin, end) = gone.get(index), span
        if places is None:
            return None
        mask = kwargs["attention_mask"]
        hidden = args[0] if args else kwargs["hidden_states"]
        first = end - mask.shape[-1]  # a sliding cache has dropped the keys before
        columns = places[places >= first] - first
        # Some layers get the prompt's last row alone.
        own = places[places >= begin] if hidden.shape[-2] == end - begin else places[:0]
        changed = mask.clone()
        worst = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        changed[..., columns] = worst
        if len(own):  # their own rows, which nobody looks at, must not be empty
            changed[..., own - begin, own - first] = True if mask.dtype == torch.bool else 0.0
        return args, {**kwargs, "attention_mask": changed}

    return hook


def _shorten(mixer: Any, index: int, gone: Mapping[int, Tensor], span: Sequence[int]) -> list[Any]:
    stay: list[Any] = [None, 0]

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        hidden, places = args[0] if args else kwargs["hidden_states"], gone.get(index)
        own = None if places is None else places[places >= span[0]] - span[0]
        stay[0] = None
        if own is None or not len(own):
            return None
        keep = torch.ones(hidden.shape[1], dtype=torch.bool)
        keep[own] = False
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
