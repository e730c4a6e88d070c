"""Where a model keeps its decoder and which token ids are visual: the few per-family rules, all in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError

# Config attributes under which transformers' families store the placeholder id of a visual token.
VISUAL_ID_KEYS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
ATTENTION_NAMES = ("self_attn", "attention", "attn")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model that sparsification touches."""

    model: nn.Module  # as given by the user
    base: nn.Module  # takes input_ids and pixel_values
    decoder: nn.Module  # takes inputs_embeds, owns the layers
    layers: nn.ModuleList
    visual_ids: tuple[int, ...]
    prunable: tuple[int, ...]  # layers after which pruning is possible

    def attention(self, layer: int) -> nn.Module:
        """The self-attention module of a decoder layer."""
        return _attention_of(self.layers[layer])  # type: ignore[return-value]


def anatomy(model: nn.Module) -> Anatomy:
    """Find decoder, layers and visual token ids.

    Raises:
        UnsupportedModelError: if the model has no decoder layers to prune between, or attention that cannot be read.
    """
    find = getattr(model, "get_decoder", None)
    if not isinstance(model, nn.Module) or find is None or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"model={type(model).__name__}: expected a transformers model with get_decoder(), such as "
            "AutoModelForImageTextToText loads"
        )
    decoder = find()
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < 2:
        raise UnsupportedModelError(f"model={type(model).__name__}: found no decoder with two layers or more")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"model={type(model).__name__}: an encoder-decoder has no visual tokens in its decoder"
        )
    types = getattr(decoder.config, "layer_types", None) or ["full_attention"] * len(layers)
    others = sorted({t for t in types if t != "full_attention"})
    if others or getattr(decoder.config, "sliding_window", None):
        raise UnsupportedModelError(
            f"model={type(model).__name__}: layers of type {others or ['sliding_attention']} are not supported yet"
        )
    blind = [i for i, layer in enumerate(layers) if _attention_of(layer) is None]
    if blind:
        raise UnsupportedModelError(
            f"model={type(model).__name__}: no self-attention found in decoder layers {blind}"
        )
    base = getattr(model, "base_model", model)
    return Anatomy(
        model=model,
        base=model if base is decoder else base,
        decoder=decoder,
        layers=layers,
        visual_ids=visual_ids(model.config),
        prunable=tuple(range(len(layers) - 1)),
    )


def visual_ids(config: Any) -> tuple[int, ...]:
    """Placeholder ids of image and video tokens, from whichever names the family's config uses."""
    found = (getattr(config, key, None) for key in VISUAL_ID_KEYS)
    return tuple(sorted({int(x) for x in found if x is not None}))


def attention_implementation(decoder: nn.Module) -> str:
    """Name of the attention implementation, such as ``sdpa``."""
    config: Any = decoder.config
    return str(config._attn_implementation)


def inverse_frequencies(decoder: nn.Module) -> torch.Tensor | None:
    """Rotary frequencies of the decoder, or None if it has no rotary embedding."""
    return getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None)


def _attention_of(layer: nn.Module) -> nn.Module | None:
    return next((getattr(layer, n) for n in ATTENTION_NAMES if hasattr(layer, n)), None)
