"""The oracle: a dense run in which later layers may not attend to what a stage dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def oracle_logits(
    model: Any, ids: Tensor, kept: list[Tensor], layers: tuple[int, ...], **pictures: Any
) -> Tensor:
    """Logits [n, vocab] of one unpadded sample (prompt and what was generated), computed densely.

    Args:
        model: with sdpa or eager attention, nothing installed.
        ids: [n] token ids.
        kept: per stage, the visual tokens that stay.
        layers: the pruning layers.
        **pictures: pixel_values and the like.
    """
    with masked_layers(model, ids, kept, layers), torch.no_grad():
        return model(
            input_ids=ids[None], attention_mask=torch.ones(1, len(ids), dtype=torch.long), **pictures
        ).logits[0]


@contextmanager
def masked_layers(model: Any, ids: Tensor, kept: list[Tensor], layers: tuple[int, ...]) -> Iterator[None]:
    """Within it, layers of ``model`` see no more than what is left for them; boolean masks suit sdpa and eager."""
    visual = (ids == model.config.image_token_id).nonzero()[:, 0]
    n = len(ids)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    eager = model.config._attn_implementation == "eager"
    hooks = []
    for i, layer in enumerate(model.get_decoder().layers):
        allowed = seen.clone()
        for p, stay in zip(layers, kept, strict=True):
            if i > p:
                gone = torch.ones(len(visual), dtype=torch.bool)
                gone[stay] = False
                allowed[:, visual[gone]] = False
                allowed[visual[gone], visual[gone]] = True  # their own rows: nobody looks at them
        mask = allowed[None, None]
        if eager:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        hooks.append(layer.register_forward_pre_hook(_with_mask(mask), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_mask(mask: Tensor) -> Any:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": mask}

    return hook
