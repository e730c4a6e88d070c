"""Finds a model's vision tower and the module that makes visual tokens from its patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ...method_names import DEFAULT
from ..model_parts import ModelParts, attention_of

# Under which names families keep the module whose output rows the language model is given as visual tokens.
PROJECTORS = (
    "multi_modal_projector",
    "mm_projector",
    "vision_projection",
    "aligner",
    "embed_vision",
    "visual_embeddings_table",
    "connector",
    "vision_model.connector",
    "visual.merger",
    "merger",
    "resampler_model",
    "projector",
)
# And of modules that normalise, pool or convolve a tower's patches before it.
BETWEEN = (
    "vision_resampler",
    "visual.post_layernorm",
    "visual.downsample",
    "vision_model.post_layernorm",
)
CLASS_TOKEN = re.compile(r"(^|[._])(class|cls)(_[a-z]+)?_(embedding|token)s?$")
INSTEAD = f"use a method that reads no vision tower, such as {DEFAULT!r}"


@dataclass(frozen=True)
class Tower:
    """One vision tower."""

    name: str
    module: nn.Module
    layer: nn.Module  # the layer whose output the language model is given
    attention: nn.Module  # of that layer
    last: bool  # whether it is the last one, so that the tower's own output is made of its output
    class_token: bool  # in row 0


@dataclass(frozen=True)
class VisionModules:
    """All that a model sees with.

    Attributes:
        towers: its vision towers; some families have one for pictures and one for clips.
        projector: the module that makes visual tokens of patches.
        base: the module that owns them.
        several: whether the projector gets the outputs of several layers side by side.
    """

    towers: tuple[Tower, ...]
    projector: nn.Module
    base: nn.Module
    several: bool

    @property
    def makers(self) -> tuple[nn.Module, ...]:
        """What makes rows of patches now, the projector last; adapters may have put copies around those."""
        return (*_between(self.base), _projector(self.base) or self.projector)

    @property
    def newline(self) -> Tensor | None:
        """The row that stands between rows of tokens in some families, and for no patch; as it is now."""
        return getattr(self.base, "image_newline", None)


def find_sight(parts: ModelParts, method: str) -> VisionModules:
    """Find vision towers and projector.

    Raises:
        UnsupportedModelError: naming method, model, and what would work.
    """
    blame = f"{method} ranks visual tokens by the attention of a vision tower, and model={type(parts.given).__name__} "
    base: Any = parts.base
    layer = getattr(parts.model.config, "vision_feature_layer", None)
    layer = getattr(parts.model.config, "vision_feature_layers", None) if layer is None else layer
    several = isinstance(layer, list | tuple)
    towers = tuple(_towers(parts, layer, blame))
    if not towers:
        raise UnsupportedModelError(f"{blame}has none with attention that can be read: {INSTEAD}")
    projector = _projector(base)
    if projector is None:
        raise UnsupportedModelError(
            f"{blame}has no module that makes its tokens of patches one by one or group by group: {INSTEAD}"
        )
    return VisionModules(towers, projector, base, several)


def _projector(base: Any) -> nn.Module | None:
    return next((x for x in (_get(base, name) for name in PROJECTORS) if x is not None), None)


def _between(base: Any) -> list[nn.Module]:
    return [x for x in (_get(base, name) for name in BETWEEN) if x is not None]


def _towers(parts: ModelParts, layer: Any, blame: str) -> list[Tower]:
    """Every stack of attention layers beside the decoder that is not for sound and not part of a projector."""
    found = []
    decoder = {id(x) for x in parts.decoder.modules()}
    for path, layers in parts.base.named_modules():
        if not isinstance(layers, nn.ModuleList) or id(layers) in decoder or not len(layers):
            continue
        child = path.split(".")[0]
        attention = [attention_of(x) for x in layers]
        readable = all(getattr(x, "config", None) is not None for x in attention)
        if not readable or "audio" in child or any(_within(path, name) for name in PROJECTORS):
            continue
        index = _layer_index(layer, len(layers), blame)
        reader = attention[index]
        assert reader is not None
        module = getattr(parts.base, child)
        marks = [p for name, p in module.named_parameters() if CLASS_TOKEN.search(name)]
        if any(p.numel() != p.shape[-1] for p in marks):
            raise UnsupportedModelError(f"{blame}has a tower with several class tokens: {INSTEAD}")
        found.append(Tower(child, module, layers[index], reader, index == len(layers) - 1, bool(marks)))
    return found


def _layer_index(layer: Any, count: int, blame: str) -> int:
    """Which layer's output is used: of several the deepest. Families count the embeddings as number 0."""
    chosen = [-1] if layer is None else list(layer) if isinstance(layer, list | tuple) else [layer]
    index = max(x - 1 if x >= 0 else count + x for x in chosen)
    if not 0 <= index < count:
        raise UnsupportedModelError(
            f"{blame}takes vision_feature_layer={layer!r} of {count} layers, before any attention: {INSTEAD}"
        )
    return index


def _get(module: Any, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(name + ".")
