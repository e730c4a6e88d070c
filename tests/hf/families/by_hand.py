"""Prompts without a processor: placeholders expanded in the text, pictures and frames as tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base import TEXT, Sample

# A decoder that has full attention in every second layer, and so three layers to prune after, as methods have stages.
LAYERS = 8
DEEP: dict[str, Any] = TEXT | {"num_hidden_layers": LAYERS}


def alternating(*kinds: str) -> list[str]:
    """Layer types in turn, each followed by full attention."""
    return [kind for other in kinds for kind in (other, "full_attention")] * (LAYERS // 2 // len(kinds))


def words(
    tokenizer: Any,
    samples: Sequence[Sample],
    picture: Callable[[Image.Image], str],
    clip: Callable[[np.ndarray], str] | None = None,
) -> dict[str, Tensor]:
    """Token ids and mask, left-padded; each <image> and <video> is what `picture` and `clip` say of it."""
    texts = []
    for sample in samples:
        images, videos = iter(sample.images), iter(sample.videos)
        text = re.sub("<image>", lambda _, i=images: picture(next(i)), sample.text)
        texts.append(re.sub("<video>", lambda _, v=videos: clip(next(v)), text) if sample.videos else text)
    out = tokenizer(texts, padding=True, return_tensors="pt")
    return {k: out[k] for k in ("input_ids", "attention_mask")}


def kinds(ids: Tensor, image: int, video: int | None = None) -> Tensor:
    """1 at picture tokens, 2 at video tokens, 0 elsewhere."""
    return (ids == image).long() + (2 * (ids == video).long() if video is not None else 0)


def frames(sample: Sample) -> list[Image.Image]:
    """The pictures of a sample, those of its clips included, in the order of the text."""
    images, videos = iter(sample.images), iter(sample.videos)
    found: list[Image.Image] = []
    for word in sample.text.split():
        if word == "<image>":
            found.append(next(images))
        elif word == "<video>":
            found += map(Image.fromarray, next(videos))
    return found


def pixels(image: Image.Image | np.ndarray, width: int, height: int) -> Tensor:
    """[3, height, width] between -1 and 1."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    values = np.asarray(image.convert("RGB").resize((width, height)), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(2, 0, 1)


def patches(values: Tensor, size: int) -> Tensor:
    """Patches of [3, height, width] row by row: [patches, size * size * 3], channels last."""
    rows, columns = values.shape[1] // size, values.shape[2] // size
    cut = values.reshape(3, rows, size, columns, size)
    return cut.permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)


def whole(image: Image.Image | np.ndarray, cell: int) -> Tensor:
    """Pixels of a picture shrunk to whole cells, each of which becomes a visual token."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return pixels(image, image.width // cell * cell, image.height // cell * cell)


def tokens(image: Image.Image | np.ndarray, cell: int) -> int:
    """How many cells it has."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return (image.width // cell) * (image.height // cell)


def merged_patches(frames: Tensor, size: int, merge: int = 2, temporal: int = 2) -> tuple[Tensor, list[int]]:
    """As Qwen's vision towers take [frames, 3, height, width]: patches of a token together, and the grid."""
    t, rows, columns = len(frames) // temporal, frames.shape[2] // size, frames.shape[3] // size
    cut = frames.reshape(t, temporal, 3, rows // merge, merge, size, columns // merge, merge, size)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * rows * columns, -1), [t, rows, columns]


def grids(samples: Sequence[Sample], size: int) -> dict[str, Tensor]:
    """Pictures and clips as Qwen's vision towers take them; a token covers 2 x 2 patches, in 2 frames."""
    cell = 2 * size
    stills = [whole(i, cell)[None].expand(2, -1, -1, -1) for s in samples for i in s.images]
    clips = [torch.stack([whole(f, cell) for f in c]) for s in samples for c in s.videos]
    out = {}
    for found, values, grid in (
        (stills, "pixel_values", "image_grid_thw"),
        (clips, "pixel_values_videos", "video_grid_thw"),
    ):
        if found:
            cut, shapes = zip(*(merged_patches(f, size) for f in found), strict=True)
            out[values], out[grid] = torch.cat(cut), torch.tensor(shapes)
    return out
