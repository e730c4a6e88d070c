"""A decoder's rotary embedding: the frequencies of a layer, and the position axis that each of them reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .families import Layer, attention_of

# Decoders whose full-attention layers use no positions, and do not say so in the attention module.
UNROTATED = {"cohere2", "cohere2_moe"}


def frequencies(decoder: nn.Module, layer: Layer) -> Tensor | None:
    """Rotary frequencies of one layer, or None if it has no rotary embedding."""
    config: Any = decoder.config
    module: Any = decoder
    unrotated = getattr(config, "model_type", "") in UNROTATED and layer.kind == "full_attention"
    if unrotated or not getattr(attention_of(module.layers[layer.index]), "use_rope", True):
        return None
    per_kind = getattr(config, "rope_parameters", None) or {}
    if per_kind.get(layer.kind, per_kind) is None:  # parameters per kind of layer, and none for this one
        return None
    rotary = getattr(decoder, "rotary_emb", None)
    own = getattr(rotary, f"{layer.kind}_inv_freq", None)  # some decoders have frequencies per kind of layer
    return own if own is not None else getattr(rotary, "inv_freq", None)


def axes(decoder: nn.Module) -> int:
    """How many axes rotary positions have: 1, or 3 for time, height and width."""
    config: Any = decoder.config
    parameters = getattr(config, "rope_parameters", None) or {}
    return len(parameters.get("mrope_section") or (1,))


def is_plain(decoder: nn.Module) -> bool:
    """Whether positions [b, n] are all that the rotary embedding takes."""
    return getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None) is not None and axes(decoder) == 1


@torch.no_grad()
def axis_of_frequencies(decoder: nn.Module, count: int) -> Tensor:
    """The position axis that each of ``count`` frequencies reads: int64 [count].

    Families lay sections out in their own ways, so this moves one axis at a time and looks which angles follow.
    """
    module: Any = decoder
    weight = next(decoder.parameters())
    states = weight.new_zeros(1, 1, 1)
    followed = []
    for axis in range(axes(decoder)):
        position = torch.zeros(axes(decoder), 1, 1, dtype=torch.long, device=weight.device)
        position[axis] = 1
        sine = module.rotary_emb(states, position)[1]
        if sine.ndim == 4:  # not put together yet: the attention does it, section by section
            sections = torch.tensor(module.config.rope_parameters["mrope_section"])
            return torch.arange(len(sections)).repeat_interleave(sections).to(weight.device)
        sine = sine[0, 0]
        twice = sine.shape[0] == 2 * count and not torch.equal(sine[:count], sine[count:])
        followed.append((sine[::2] if twice else sine)[:count] != 0)
    return torch.stack(followed).int().argmax(0)
