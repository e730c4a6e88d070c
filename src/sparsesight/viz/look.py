"""Builds a look from a handle, the pictures and the model's processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SparseSightError
from ..families import family_of
from ..images import open_image
from .clips import clip_views
from .html import fragment
from .prompt_tokens import Word, prompt_words
from .record import Look as LookData
from .record import Picture
from .token_layouts import LayoutInput, rule_of, views

if TYPE_CHECKING:
    from ..hf.sparsified import Sparsified

Still = Image.Image | np.ndarray | str | os.PathLike[str]
Clip = np.ndarray | Sequence[Still]


class Look(LookData):
    """A :class:`Look` with an HTML representation for notebooks."""

    def _repr_html_(self) -> str:
        return fragment(self)


def look(
    run: Sparsified,
    image: Still | Sequence[Still | Clip] | np.ndarray,
    processor: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    sample: int = 0,
    images_kwargs: Mapping[str, Any] | None = None,
) -> Look:
    """A record of what the last prefill of ``run`` kept, for drawing.

    Args:
        run: handle of :func:`sparsesight.sparsify` whose model has run.
        image: the sample's picture, or a sequence with one entry for each of its pictures and clips, in the order of
            the prompt. A picture is a PIL image, a uint8 array [h, w, 3] or a file name; a clip is a uint8 array
            [frames, h, w, 3] or a sequence of pictures.
        processor: the model's, with an ``image_processor``. It is run on a picture of this size to find the layout.
        inputs: the model's inputs, as the processor returned them, to show the raters. Clips of families with grids
            need them.
        sample: index in the batch.
        images_kwargs: picture options that were passed to the processor in this call, such as ``{"max_patches": 4}``.

    Raises:
        SparseSightError: the model has not run; the family's tokens cannot be placed, or their number differs from the
            prompt's.
    """
    stages = tuple(run.choices(sample))
    visual = run.report.samples[sample].visual_tokens
    pictures = _pictures(run, image, processor, inputs, sample, dict(images_kwargs or {}), visual)
    words: tuple[Word, ...] = ()
    if inputs is not None and inputs.get("input_ids") is not None:
        words = prompt_words(run, processor, inputs, sample)
    return Look(pictures, stages, words, run.report, sample)


def _pictures(
    run: Sparsified,
    image: Any,
    processor: Any,
    inputs: Mapping[str, Any] | None,
    sample: int,
    how: Mapping[str, Any],
    visual: int,
) -> tuple[Picture, ...]:
    config = run.model.config
    family = family_of(config)
    if family.clip_is_pictures:
        image = [frame for entry in _entries(image) for frame in entry]
    given = [tuple(_still(frame) for frame in entry) for entry in _entries(image)]
    clips = [_is_clip(entry) for entry in _listed(image)]
    images = getattr(processor, "image_processor", None)
    if images is None and not all(clips):
        raise SparseSightError(f"processor={type(processor).__name__}: it has no image_processor")
    if not all(clips):
        rule_of(config)  # refuses an unknown family
    moving = iter(
        clip_views(run, processor, inputs, sample, [f for f, clip in zip(given, clips, strict=True) if clip])
    )
    told = {i: next(moving) for i, clip in enumerate(clips) if clip}
    counts = (1, len(given)) if family.pictures_together and len(given) > 1 else (1,)
    found = []
    for way, together in product(family.processor_calls, counts):
        made = [
            told[i]
            if i in told
            else views(LayoutInput(config, images, frames[0].size, {**way, **how}, together))
            for i, frames in enumerate(given)
        ]
        found.append(sum(view.size for each in made for view in each))
        if found[-1] == visual:
            pictures, before = [], 0
            for frames, each in zip(given, made, strict=True):
                pictures.append(Picture(frames, tuple(view.after(before) for view in each)))
                before += sum(view.size for view in each)
            return tuple(pictures)
    raise SparseSightError(
        f"image: {len(given)} picture{'s' * (len(given) > 1)} of this size make "
        f"{' or '.join(map(str, sorted({*found})))} visual tokens, but the prompt had {visual}: give every picture of "
        "the sample as the processor was given it, in their order, and what it was told in images_kwargs"
    )


def _listed(image: Any) -> list[Any]:
    """The pictures and clips, one or several."""
    if isinstance(image, (Image.Image, str, os.PathLike)) or (
        isinstance(image, np.ndarray) and image.ndim == 3
    ):
        return [image]
    if isinstance(image, np.ndarray) and image.ndim == 4:
        return [image]
    if isinstance(image, Sequence) and image:
        return list(image)
    raise SparseSightError(
        f"image={type(image).__name__}: give a picture (PIL image, array [h, w, 3], file name), or a list of "
        "pictures and clips"
    )


def _is_clip(entry: Any) -> bool:
    return (isinstance(entry, np.ndarray) and entry.ndim == 4) or isinstance(entry, (list, tuple))


def _entries(image: Any) -> list[list[Any]]:
    """The frames of each picture and clip."""
    return [list(entry) if _is_clip(entry) else [entry] for entry in _listed(image)]


def _still(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.dtype == np.uint8:
        return Image.fromarray(picture).convert("RGB")
    if isinstance(picture, (str, os.PathLike)):
        return open_image(Path(picture))
    raise SparseSightError(
        f"image={type(picture).__name__}: a picture is a PIL image, a uint8 array [h, w, 3] or a file name"
    )
