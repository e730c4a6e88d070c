"""Prompts for LLaVA's kin, made by a processor or as Pixtral's processor has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import base
from .base import Sample

Make = Callable[..., Any]


SIDE, PATCH = 48, 8  # 36 visual tokens


def processed(
    processor: Any, samples: Sequence[Sample], token: str = "<image>", **how: Any
) -> dict[str, Any]:
    """What the family's processor makes of pictures and text in which `token` is a picture."""
    pictures = [image for sample in samples for image in sample.images]
    text = [sample.text.replace("<image>", token) for sample in samples]
    return dict(processor(text=text, images=pictures or None, padding=True, return_tensors="pt", **how))


def tokenized(
    tokenizer: Any, samples: Sequence[Sample], images: Sequence[str] = (), videos: Sequence[str] = ()
) -> dict[str, Any]:
    """Text in which the pictures and clips are the given words, in their order."""
    image, video = iter(images), iter(videos)
    texts = []
    for sample in samples:
        words = sample.text.split(" ")
        words = [next(image) if w == "<image>" else next(video) if w == "<video>" else w for w in words]
        texts.append(" ".join(words))
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def pixtral_images(
    samples: Sequence[Sample], patch: int, longest: int = SIDE
) -> tuple[dict[str, Any], list[Any]]:
    """Pictures of several sizes, and how many rows and columns of `patch` pixels each has."""
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    pictures = [image for sample in samples for image in sample.images]
    if not pictures:
        return {}, []
    make = PixtralImageProcessorPil(
        size={"longest_edge": longest}, patch_size={"height": patch, "width": patch}
    )
    made = dict(make(pictures, return_tensors="pt"))
    return made, [(int(h) // patch, int(w) // patch) for h, w in made["image_sizes"]]


def pixtral_prompts(samples: Sequence[Sample], patch: int = PATCH) -> dict[str, Any]:
    """As PixtralProcessor has it: a break after every row of the picture, and another at its end."""
    tokenizer = base.tokenizer("<image>", "[BREAK]", "[END]")
    made, grids = pixtral_images(samples, patch)
    words = ["[BREAK]".join(["<image>" * wide] * high) + "[END]" for high, wide in grids]
    return {**tokenized(tokenizer, samples, words), **made}
