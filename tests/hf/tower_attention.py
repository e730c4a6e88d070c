"""What vision towers attend to, the long way: whole attention matrices, and each family's layout by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

RECORDED = "recorded_for_tests"


@dataclass
class Recorded:
    """Of one call of attention: [m, heads, n, n] and [m, n, d]."""

    weight: Tensor
    key: Tensor


def _record(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any) -> Any:
    scale = how.get("scaling") or query.shape[-1] ** -0.5
    logits = query @ key.transpose(2, 3) * scale
    weight = (logits if attention_mask is None else logits + attention_mask).softmax(-1)
    module.seen_by_test.append(Recorded(weight.detach(), key.detach().mean(1)))
    return (weight @ value).transpose(1, 2).contiguous(), weight


@contextmanager
def recorded(attention: nn.Module) -> Iterator[list[Recorded]]:
    """Within it, all that an attention module of an eager model computes."""
    AttentionInterface.register(RECORDED, _record)
    before: Any = attention.config
    private = copy.copy(before)
    private.__dict__["_attn_implementation_internal"] = RECORDED
    seen: list[Recorded] = []
    attention.config, attention.seen_by_test = private, seen  # type: ignore[assignment]
    try:
        yield seen
    finally:
        attention.config = before
        del attention.seen_by_test


def received(seen: list[Recorded], class_token: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Of each picture what its patches receive [p, 1], and their keys [p, d]."""
    attention, keys = [], []
    for call in seen:
        for weight, key in zip(call.weight, call.key, strict=True):
            if class_token:
                attention.append(weight[:, 0, 1:].mean(0)[:, None])
                keys.append(key[1:])
            else:  # pictures that share a sequence do not see each other
                mine = (weight.mean(0) > 0).float()
                attention.append((weight.mean(0).sum(0) / mine.sum(0))[:, None])
                keys.append(key)
    return attention, keys


# -- from pictures' patches [p, ch] to tokens [n, ch], by hand: (model, prompt, pictures, newline) -> tokens --------

Layout = Callable[[Any, dict[str, Any], list[Tensor], float], Tensor]


def in_order(model: Any, prompt: dict[str, Any], pictures: list[Tensor], newline: float) -> Tensor:
    return torch.cat(pictures)


def packed(model: Any, prompt: dict[str, Any], tiles: list[Tensor], newline: float) -> Tensor:
    """As LLaVA-NeXT and LLaVA-OneVision lay tiles out; they are the ones to know how."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config = model.config
    sizes = prompt["image_sizes"]
    counts = [
        image_size_to_num_patches(s, config.image_grid_pinpoints, config.vision_config.image_size)
        for s in sizes
    ]
    pictures = torch.stack(tiles[: sum(counts)]).split(counts)
    line = torch.full(tiles[0].shape[1:], newline)
    how = (
        {"vision_feature_select_strategy": "default"}
        if "vision_feature_select_strategy" in model.model.pack_image_features.__code__.co_varnames
        else {}
    )
    made, _ = model.model.pack_image_features(pictures, sizes, image_newline=line, **how)
    return torch.cat(list(made))


def blocks(side: int) -> Layout:
    """The mean of blocks of ``side`` x ``side`` patches of square pictures, row by row."""

    def layout(model: Any, prompt: dict[str, Any], pictures: list[Tensor], newline: float) -> Tensor:
        each = []
        for patches in pictures:
            high = round(len(patches) ** 0.5)
            square = patches.T.reshape(1, -1, high, high)
            each.append(nn.functional.avg_pool2d(square, side).flatten(2)[0].T)
        return torch.cat(each)

    return layout


def neighbours(model: Any, prompt: dict[str, Any], pictures: list[Tensor], newline: float) -> Tensor:
    """Four patches, one after the other, make a token."""
    return torch.cat(pictures).unflatten(0, (-1, 4)).mean(1)


def windows(model: Any, prompt: dict[str, Any], pictures: list[Tensor], newline: float) -> Tensor:
    """The same, put back into their order, as Qwen2.5-VL computes in windows."""
    from transformers.vision_utils import get_vision_window_index

    vision = model.config.vision_config
    tower = model.model.visual
    index, _ = get_vision_window_index(
        prompt["image_grid_thw"], vision.spatial_merge_size, vision.window_size, vision.patch_size
    )
    assert tower is not None
    return neighbours(model, prompt, pictures, newline)[index.argsort()]


def sheets(model: Any, prompt: dict[str, Any], pictures: list[Tensor], newline: float) -> Tensor:
    """Pictures of several sizes one after the other in one sequence, merged by 2 x 2."""
    patch = model.config.vision_config.patch_size
    all_patches, start, each = torch.cat(pictures), 0, []
    for height, width in prompt["image_sizes"].tolist():
        high, wide = height // patch, width // patch
        grid = all_patches[start : start + high * wide].T.reshape(1, -1, high, wide)
        each.append(nn.functional.avg_pool2d(grid, 2).flatten(2)[0].T)
        start += high * wide
    return torch.cat(each)
