"""Hiding keys from the layers of a dense model on eager attention, in its whole prompt or in decoding alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def hidden(model: Any, gone: dict[int, Tensor], decoding: dict[int, Tensor] | None = None) -> Iterator[None]:
    """Within it layer ``i`` does not see the tokens ``gone[i]`` (places in the prompt of a single sample), nor,
    in steps of one token, the tokens ``decoding[i]``."""
    layers, hooks = model.get_decoder().layers, []
    for places_of, steps_only in ((gone, False), (decoding or {}, True)):
        for i, places in places_of.items():
            hook = _hide(places, steps_only)
            hooks.append(layers[i].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _hide(places: Tensor, steps_only: bool) -> Any:
    length = 0

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        nonlocal length
        mask, rows = kwargs["attention_mask"].clone(), args[0].shape[1]
        length = rows if rows > 1 else length + 1
        if rows > 1 and steps_only:
            return None
        first = length - mask.shape[-1]  # a sliding cache has forgotten what was before
        mask[..., places[places >= first] - first] = torch.finfo(mask.dtype).min
        if rows > 1:  # their own rows, which nobody looks at, must not be empty
            mask[..., places, places - first] = 0.0
        return args, {**kwargs, "attention_mask": mask}

    return hook
