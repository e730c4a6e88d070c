"""MiniCPM-V and MiniCPM-OCR: pictures and their slices in one packed row of patches, Qwen 3.5's decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import base, by_hand
from .base import Family, Sample

CELL = 12  # pixels a visual token covers, across
TOKENS = {
    "image_token": "<image>",
    "video_token": "<video>",
    "image_start_token": "<start>",
    "image_end_token": "<end>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "newline_token": "<newline>",
}
LINEAR = {  # Qwen 3.5, text
    "layer_types": by_hand.alternating("linear_attention"),
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}


def _build(kind: str, merge: int) -> Callable[[str], Any]:
    """Of `MiniCPM{kind}`, in which a token is `merge` patches across."""

    def build(attention: str) -> Any:
        import transformers
        from transformers import Qwen3_5TextConfig

        base.seed()
        words = base.tokenizer(**TOKENS)
        ids = {"image_token_id": words.image_token_id, "video_token_id": words.video_token_id}
        if kind == "V4_7":
            marks = list(TOKENS)[2:]
            ids |= {mark.replace("token", "id"): getattr(words, f"{mark}_id") for mark in marks}
        vision = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 48,
            "patch_size": CELL // merge,
            "insert_layer_id": 0,
            "initializer_range": 0.3,
        }
        config = getattr(transformers, f"MiniCPM{kind}Config")(
            text_config=Qwen3_5TextConfig(**by_hand.DEEP, **LINEAR),
            vision_config=vision,
            insert_layer_id=0,
            **ids,
            attn_implementation=attention,
        )
        model = getattr(transformers, f"MiniCPM{kind}ForConditionalGeneration")(config)
        return base.finish(model, *words.convert_tokens_to_ids([*TOKENS.values()]))

    return build


def _prompts(merge: int, typed: bool) -> Callable[[Sequence[Sample]], dict[str, Any]]:
    def prompts(samples: Sequence[Sample]) -> dict[str, Any]:
        words = base.tokenizer(**TOKENS)

        def picture(image: Image.Image) -> str:
            whole, *slices = (len(cells) for cells in _units(image))
            first = f"<start>{'<image>' * whole}<end>"
            return first + "".join(f"<slice>{'<image>' * n}</slice>" for n in slices)

        def clip(frames: Any) -> str:
            return "".join(f"<start>{'<video>' * by_hand.tokens(f, CELL)}<end>" for f in frames)

        out = by_hand.words(words, samples, picture, clip)
        if typed:
            ids = words.image_token_id, words.video_token_id
            out["mm_token_type_ids"] = by_hand.kinds(out["input_ids"], *ids)
        pictures = [unit for s in samples for image in s.images for unit in _units(image)]
        frames = [_Cells(by_hand.whole(f, CELL)) for s in samples for c in s.videos for f in c]
        for found, end in ((pictures, ""), (frames, "_videos")):
            if found:
                packed, sizes = zip(*(_packed(u.values, CELL // merge) for u in found), strict=True)
                out[f"pixel_values{end}"] = torch.cat(packed, -1)[None]
                out[f"target_sizes{end}"] = torch.tensor(sizes)
        return out

    return prompts


class _Cells:
    """Pixels of a picture, a slice or a frame."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return self.values.shape[1] * self.values.shape[2] // CELL**2


def _units(image: Image.Image) -> list[_Cells]:
    """A picture; if it is wide, a small one and its halves."""
    if image.width < 2 * image.height:
        return [_Cells(by_hand.whole(image, CELL))]
    values = by_hand.whole(image, 2 * CELL)
    small = by_hand.pixels(image, values.shape[2] // 2, values.shape[1] // 2)
    return [_Cells(v) for v in (small, *values.chunk(2, 2))]


def _packed(values: Tensor, size: int) -> tuple[Tensor, list[int]]:
    """Patches side by side [3, size, patches * size], and how many rows and columns there are."""
    rows, columns = values.shape[1] // size, values.shape[2] // size
    return values.reshape(3, rows, size, -1).transpose(1, 2).reshape(3, size, -1), [rows, columns]


def _family(name: str, kind: str, merge: int, decoder: str) -> Family:
    # Their video processors, which their processors insist on, need torchvision.
    return Family(
        name,
        _build(kind, merge),
        _prompts(merge, typed=kind == "V4_7"),
        visual="image, video",
        inputs="tensors",
        decoder=decoder,
        visual_ids=(4, 5),
        kinds="rf" * 4,
        tolerance=5e-3,  # linear attention adds up rounding: dense batches differ by as much from samples alone
    )


FAMILIES = (
    _family("minicpmv4_6", "V4_6", 4, "linear attention in every second layer"),
    _family("minicpmv4_7", "V4_7", 4, "linear attention in every second layer, positions on a canvas"),
    _family("minicpm_ocr", "Ocr", 2, "linear attention in every second layer"),
)
