"""Leaves out, before the vision tower, parts of pictures that follow from their neighbours.

For families whose tower takes the patches of all pictures as one sequence, with a position for each: those that remain
keep theirs, and so do their tokens in the language model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import SparseSightError, UnsupportedModelError
from ..families import family_of
from .model_parts import ModelParts, inspect_model

if TYPE_CHECKING:
    from jaxtyping import Bool

PIXELS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
FILLERS = {"labels": -100}  # of columns that pad a shortened batch; others get 0


def drop_predicted(model: nn.Module, inputs: Mapping[str, Any], threshold: float = 0.0) -> dict[str, Any]:
    """Encode a prompt's pictures without the parts that their neighbours predict, and leave out the tokens of these.

    ::

        inputs = processor(text=..., images=..., return_tensors="pt")
        with sparsify(model, retain=64):
            model.generate(**drop_predicted(model, inputs))

    A part is what becomes one visual token, such as 2 x 2 patches. White paper and flat areas of an interface need no
    tower and no tokens then; :func:`sparsesight.ops.predicted_units` has the rule. At ``threshold=0`` the remaining
    pixels and positions determine the picture exactly, but the model sees fewer tokens than it was trained with: its
    answers are not bound to be the same. What it computes is exactly what it would if no layer of tower and language
    model could see the parts left out. Clips are encoded whole.

    The result is for ``generate()``, or a forward; inside :func:`sparsify` it is pruned like any other prompt. Batches
    become left-padded. Methods that read the vision tower need this call inside the context, right before the model's.

    Args:
        model: a model of a family whose pictures are grids of patches: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5, GLM-4V.
        inputs: what its processor made, on the model's device.
        threshold: largest difference of a pixel value from its prediction, in the numbers that the processor makes
            (one step of 255 is about 0.015 for Qwen2-VL); 0: only what is predicted exactly is left out.

    Returns:
        The inputs with shorter ``input_ids``, with ``position_ids`` and ``mm_encoder_outputs``, without pixels; of a
        prompt without pictures, all as it is.

    Raises:
        UnsupportedModelError: another family, or a version of transformers whose model takes no encoded pictures.
        SparseSightError: a threshold that is none; ``inputs`` that lack grids or ids, or do not match.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < math.inf:
        raise SparseSightError(f"threshold={threshold!r}: give a number from 0 on")
    if inputs.get("pixel_values") is None:
        return dict(inputs)
    parts = inspect_model(model)
    tower = _tower(parts)
    for name in ("input_ids", "image_grid_thw"):
        if not isinstance(inputs.get(name), Tensor):
            raise SparseSightError(f"inputs: {name} is missing; pass all that the processor made")
    config: Any = parts.model.config
    grids, merge = inputs["image_grid_thw"], int(config.vision_config.spatial_merge_size)
    kept = kept_units(inputs["pixel_values"], grids, merge, threshold)
    ids = inputs["input_ids"]
    places = ids == config.image_token_id
    stay = torch.cat([x.flatten() for x in kept])
    if int(places.sum()) != len(stay):
        raise SparseSightError(
            f"inputs: {int(places.sum())} picture tokens in input_ids, but pixel_values make {len(stay)}; pass what "
            "the processor made, unchanged"
        )
    encoded = {"image": _encode(tower, inputs["pixel_values"], grids, merge, kept)}
    if inputs.get("pixel_values_videos") is not None:
        base: Any = parts.base
        encoded["video"] = base.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
    seen = inputs.get("attention_mask")
    column = torch.ones_like(places) if seen is None else seen.bool().clone()
    column[places] &= stay.to(ids.device)
    return {**_shortened(parts, inputs, column), "mm_encoder_outputs": encoded}


def kept_units(
    pixels: Tensor, grids: Tensor, merge: int, threshold: float = 0.0
) -> list[Bool[Tensor, "t h w"]]:
    """Which units of ``merge`` x ``merge`` patches of each picture are not predicted.

    Args:
        pixels: [patches, c], the patches of a unit behind each other, units by rows.
        grids: [pictures, 3], steps in time, rows and columns of patches.
    """
    sizes = [(t, h // merge, w // merge) for t, h, w in grids.tolist()]
    if sum(t * h * w for t, h, w in sizes) * merge**2 != len(pixels):
        raise SparseSightError(
            f"inputs: image_grid_thw={grids.tolist()} does not fit pixel_values of {len(pixels)} patches"
        )
    parts = pixels.split([t * h * w * merge**2 for t, h, w in sizes])
    units = [x.reshape(*size, -1) for x, size in zip(parts, sizes, strict=True)]
    return [~ops.predicted_units(x, float(threshold)) for x in units]


def _tower(parts: ModelParts) -> Any:
    name, tower = type(parts.model).__name__, getattr(parts.base, "visual", None)
    if family_of(parts.model.config).layout != "by_grid" or tower is None:
        raise UnsupportedModelError(
            f"model={name}: its vision tower takes whole pictures or tiles, not patches with positions of their own; "
            "sparsify(model, encode_once=True) encodes equal tiles once"
        )
    if "mm_encoder_outputs" not in inspect.signature(parts.model.forward).parameters:
        raise UnsupportedModelError(
            f"model={name}: in this version of transformers it takes no mm_encoder_outputs; install a later one, "
            "such as 5.23"
        )
    return tower


def _encode(tower: Any, pixels: Tensor, grids: Tensor, merge: int, kept: list[Tensor]) -> Any:
    """The tower's output for the units that are kept, per picture."""
    from transformers import vision_utils as made

    stay = torch.cat([x.flatten() for x in kept])
    rows = stay.repeat_interleave(merge**2)
    frames = torch.cat([x.flatten(1).sum(1) for x in kept])
    given: dict[str, Any] = {
        "position_ids": made.get_vision_position_ids(grids, merge)[rows],
        "cu_seqlens": _ends(frames * merge**2),
    }
    if hasattr(tower, "num_grid_per_side"):  # learned positions, resampled to each picture's grid
        found = made.get_vision_interpolation_indices_and_weights(
            grids,
            tower.num_grid_per_side,
            tower.interpolation_mode,
            tower.interpolation_align_corners,
            merge,
        )
        given |= {name: x[rows] for name, x in zip(("interp_indices", "interp_weights"), found, strict=True)}
    if hasattr(tower, "window_size"):
        order, ends = made.get_vision_window_index(grids, merge, tower.window_size, tower.patch_size)
        order = order.to(stay.device)
        window = torch.arange(len(ends) - 1).repeat_interleave(ends.diff().cpu() // merge**2).to(stay.device)
        count = torch.zeros(len(ends) - 1, dtype=torch.long, device=stay.device)
        count.index_add_(0, window, stay[order].long())
        given["window_index"] = (stay.cumsum(0) - 1)[order[stay[order]]]
        given["cu_window_seqlens"] = _ends(count[count > 0] * merge**2)
    out = tower(pixels[rows].type(tower.dtype), grid_thw=grids, return_dict=True, **given)
    sizes = [int(x.sum()) for x in kept]
    out.pooler_output = out.pooler_output.split(sizes)
    if getattr(out, "deepstack_features", None) is not None:
        out.deepstack_features = [x.split(sizes) for x in out.deepstack_features]
    return out


def _ends(lengths: Tensor) -> Tensor:
    """Boundaries of sequences of these lengths that follow one another."""
    return nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def _shortened(parts: ModelParts, inputs: Mapping[str, Any], column: Bool[Tensor, "b n"]) -> dict[str, Any]:
    """The inputs with these columns alone, left-padded, and the positions that they had."""
    base: Any = parts.base
    config: Any = parts.model.config
    positions = inputs.get("position_ids")
    if positions is None:
        wanted = inspect.signature(base.get_rope_index).parameters
        positions, _ = base.get_rope_index(**{k: v for k, v in inputs.items() if k in wanted})
    count = column.sum(1)
    width = int(count.max())
    index = column.long().argsort(stable=True, dim=1)[:, -width:]  # the others go first
    real = column.gather(1, index)
    out = {k: v for k, v in inputs.items() if k not in PIXELS}
    for name, x in out.items():
        if isinstance(x, Tensor) and x.shape == column.shape:
            out[name] = x.gather(1, index).masked_fill(~real, FILLERS.get(name, 0))
    text = config.get_text_config()
    pads = (getattr(text, "pad_token_id", None), 0)
    pad = next(x for x in pads if isinstance(x, int) and 0 <= x < text.vocab_size)
    out["input_ids"] = out["input_ids"].masked_fill(~real, pad)
    out["attention_mask"] = real.long()
    kept = positions.gather(-1, index.expand(*positions.shape[:-1], -1)).masked_fill(~real, 0)
    if hasattr(base, "rope_deltas"):  # by which a step without positions goes on
        last = kept.amax(-1) if kept.ndim == 2 else kept.amax((0, -1))
        base.rope_deltas = (last + 1 - count)[:, None]
    return {**out, "position_ids": kept}
