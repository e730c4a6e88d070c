"""A decoder's rotary embedding: the frequencies of each layer, and the position axis that each of them uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SparseSightError
from ..families import family_of
from .model_parts import Layer, attention_of


def frequencies(decoder: nn.Module, layer: Layer) -> Tensor | None:
    """Rotary frequencies of one layer, or None if it has no rotary embedding."""
    config: Any = decoder.config
    module: Any = decoder
    if _is_unrotated(config, layer) or not getattr(
        attention_of(module.layers[layer.index]), "use_rope", True
    ):
        return None
    per_kind = getattr(config, "rope_parameters", None) or {}
    if per_kind.get(layer.kind, per_kind) is None:  # parameters per kind of layer, and none for this one
        return None
    rotary = getattr(decoder, "rotary_emb", None)
    own = getattr(rotary, f"{layer.kind}_inv_freq", None)  # some decoders have frequencies per kind of layer
    return own if own is not None else getattr(rotary, "inv_freq", None)


def _is_unrotated(config: Any, layer: Layer) -> bool:
    """Whether a family leaves the positions out of this layer by a rule of its own."""
    bases = getattr(config, "layer_rope_theta", None)
    if bases is not None and not bases[layer.index]:
        return True
    rule = family_of(config).unrotated
    applies = rule == "all" or (rule == "beside windows" and bool(getattr(config, "sliding_window", None)))
    return layer.kind == "full_attention" and applies


def axes(decoder: nn.Module) -> int:
    """How many axes rotary positions have: 1, or 3 for time, height and width."""
    config: Any = decoder.config
    parameters = getattr(config, "rope_parameters", None) or {}
    return len(parameters.get("mrope_section") or (1,))


def is_plain(decoder: nn.Module) -> bool:
    """Whether positions [b, n] are all that the rotary embedding takes."""
    return getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None) is not None and axes(decoder) == 1


def check_positions(decoder: nn.Module, position: Any, batch: int, length: int) -> None:
    """Refuse positions of a prompt, [b or 1, n] or [axes, b or 1, n], that are of another one or another decoder.

    Raises:
        SparseSightError: with their shape.
    """
    if not isinstance(position, Tensor):
        return
    count = axes(decoder)
    # Some have sections per kind of layer.
    several = count > 1 or bool(getattr(getattr(decoder, "rotary_emb", None), "mrope_section", None))
    shape = tuple(position.shape)
    # Some prepend the plain positions; those of a single axis are the same along all.
    known = count == 1 or shape[0] in (1, count, count + 1)
    fits = len(shape) == 2 or (len(shape) == 3 and several and known)
    if not fits or shape[-1] != length or shape[-2] not in (1, batch):
        wanted = f"[{batch}, {length}]" + (f" or [{max(count, 3)}, {batch}, {length}]" if several else "")
        raise SparseSightError(
            f"position_ids: have shape {list(shape)}, but this call brings {length} tokens for a batch of {batch}; "
            f"give {wanted}, or leave them out"
        )


@torch.no_grad()
def axis_of_frequencies(decoder: nn.Module, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """The position axis that each rotated pair reads, int64 [f], and the pairs' frequencies, in the same order.

    Families lay sections out in their own ways, so this moves one axis at a time and looks which angles follow. A
    family whose pairs have two axes each (hunyuan_vl) counts by the first.
    """
    module: Any = decoder
    count = inv_freq.shape[-1]  # some have a row for each axis
    weight = next(decoder.parameters())
    states = torch.zeros(1, 1, 1, device=weight.device)
    angles = []
    for axis in range(axes(decoder)):
        position = torch.zeros(axes(decoder), 1, 1, dtype=torch.long, device=weight.device)
        position[axis] = 1
        cosine, sine = module.rotary_emb(states, position)
        if sine.ndim == 4:  # not put together yet: the attention does it, section by section
            sections = torch.tensor(module.config.rope_parameters["mrope_section"])
            return torch.arange(len(sections)).repeat_interleave(sections).to(weight.device), inv_freq
        angle = torch.atan2(sine[0, 0], cosine[0, 0])
        twice = len(angle) == 2 * count and not torch.equal(angle[:count], angle[count:])
        angles.append((angle[::2] if twice else angle)[:count])
    every = torch.stack(angles)
    read = (every != 0).int().argmax(0)
    return read, every.gather(0, read[None])[0]
