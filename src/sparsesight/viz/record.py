"""A prefill as pictures need it: which patches each stage kept, merged and dropped, what they scored, who judged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..core.budget import BEFORE
from ..errors import SparseSightError
from ..images import open_image
from .clips import ROWS_OF_PICTURES, clip_views
from .patch_grid import View
from .prompt_tokens import Word, prompt_words
from .token_layouts import TOGETHER, WAYS, Asked, rule_of, views

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from ..hf.record import Choice
    from ..hf.sparsify import Sparsified
    from ..report import Report

Still = Image.Image | np.ndarray | str | os.PathLike[str]
Clip = np.ndarray | Sequence[Still]


@dataclass(frozen=True)
class Picture:
    """A picture of the prompt, or a clip, with the model's views of it.

    Attributes:
        frames: one for a picture.
        views: their tokens are counted through all pictures of the sample.
    """

    frames: tuple[Image.Image, ...]
    views: tuple[View, ...]


@dataclass(frozen=True)
class Stage:
    """What is left after one stage; ``v`` are all visual tokens of the sample.

    Attributes:
        layer: it pruned after this layer, -1: before the first.
        kept: which tokens are left as they were.
        merged: which tokens went into a merged one that is left.
        centre: which tokens' places the merged ones take.
        score: what the method gave to each token that came to this stage, ``nan`` for the others.
    """

    layer: int
    kept: Bool[np.ndarray, " v"]
    merged: Bool[np.ndarray, " v"]
    centre: Bool[np.ndarray, " v"]
    score: Float[np.ndarray, " v"]

    @property
    def where(self) -> str:
        return "before layer 0" if self.layer == BEFORE else f"after layer {self.layer}"

    def counts(self, short: bool = False) -> str:
        """``66 + 8 merged of 576``."""
        merged = int(self.centre.sum())
        more = (
            ("" if not merged else f"+{merged}") if short else ("" if not merged else f" + {merged} merged")
        )
        return f"{self.kept.sum()}{more} of {self.kept.size}"


@dataclass(frozen=True)
class Look:
    """What one sample's last prefill looked at: plain data, which later prefills do not change.

    Attributes:
        pictures: with the views of each.
        stages: in their order; none if the prefill ran dense.
        words: the prompt's text with its raters; empty if it was not given.
        report: of the run, for its counts.
        sample: which of the batch it was.
    """

    pictures: tuple[Picture, ...]
    stages: tuple[Stage, ...]
    words: tuple[Word, ...]
    report: Report
    sample: int = 0

    @property
    def visual(self) -> int:
        return self.report.samples[self.sample].visual_tokens

    @property
    def per_layer(self) -> tuple[int, ...]:
        """Visual tokens entering each layer."""
        return self.report.samples[self.sample].visual_per_layer

    def stage(self, number: int) -> Stage:
        """Stage ``number``, counted from 0, or from the end if it is negative.

        Raises:
            SparseSightError: if there is none.
        """
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
            raise SparseSightError(
                f"stage={number!r}: give a number, counted from 0, or from the last if negative"
            )
        if not -len(self.stages) <= number < len(self.stages):
            have = (
                f"this prefill had {len(self.stages)}, counted from 0"
                if self.stages
                else "this prefill ran dense"
            )
            raise SparseSightError(f"stage={number}: {have}")
        return self.stages[number]

    def _repr_html_(self) -> str:
        from .html import fragment

        return fragment(self)


def checked(look: Any, name: str = "look") -> Look:
    """``look``, if it is one.

    Raises:
        SparseSightError: for anything else.
    """
    if isinstance(look, Look):
        return look
    raise SparseSightError(
        f"{name}={type(look).__name__}: give what viz.look(run, image, processor, inputs) returned"
    )


def by_name(looks: Any, kinds: tuple[type, ...] = (Look,), single: bool = False) -> dict[str, Any]:
    """``looks`` by name; one alone, where that may be, has an empty one.

    Raises:
        SparseSightError: for anything but a mapping of strings to ``kinds``, and for an empty one.
    """
    if single and isinstance(looks, kinds):
        return {"": looks}
    wanted = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(looks, Mapping):
        if not looks:
            raise SparseSightError("looks: give one look or more, by name")
        for name, each in looks.items():
            if not isinstance(name, str):
                raise SparseSightError(f"looks: the name {name!r} is no string")
            if not isinstance(each, kinds):
                raise SparseSightError(f"looks[{name!r}]={type(each).__name__}: give a {wanted}")
        return dict(looks)
    alone = f"one {wanted}, or " if single else ""
    raise SparseSightError(
        f"looks={type(looks).__name__}: give {alone}several by name, such as {{'sparsevlm+': look}}"
    )


def look(
    run: Sparsified,
    image: Still | Sequence[Still | Clip] | np.ndarray,
    processor: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    sample: int = 0,
    images_kwargs: Mapping[str, Any] | None = None,
) -> Look:
    """What the last prefill of ``run`` looked at, to be drawn.

    Args:
        run: handle of :func:`sparsesight.sparsify` whose model has run.
        image: the sample's picture, or a sequence with one entry for each of its pictures and clips, in the order of
            the prompt. A picture is a PIL image, a uint8 array [h, w, 3] or a file name; a clip is a uint8 array
            [frames, h, w, 3] or a sequence of pictures.
        processor: the model's, with an ``image_processor``. It is asked where it puts a picture of this size.
        inputs: what the model was given, as the processor made it: with them the words that judged are shown. Clips of
            families with grids need them.
        sample: which one of the batch.
        images_kwargs: what the processor was told of pictures in this one call, such as ``{"max_patches": 4}``.

    Raises:
        SparseSightError: if the model has not run; if the family's tokens cannot be placed, or make another number
            than the prompt had.
    """
    choices = run.choices(sample)
    visual = run.report.samples[sample].visual_tokens
    pictures = _pictures(run, image, processor, inputs, sample, dict(images_kwargs or {}), visual)
    words: tuple[Word, ...] = ()
    if inputs is not None and inputs.get("input_ids") is not None:
        words = prompt_words(run, processor, inputs, sample)
    return Look(pictures, tuple(_stages(choices, visual)), words, run.report, sample)


def _stages(choices: Sequence[Choice], visual: int) -> list[Stage]:
    kept = np.ones(visual, dtype=bool)
    group = np.full(visual, -1)  # the centre of the merged token that each token is part of
    stages = []
    for choice in choices:
        token, old, on = (np.asarray(x) for x in (choice.token, choice.merged, choice.kept))
        into = np.asarray(choice.into)
        before, kept = group, np.zeros(visual, dtype=bool)
        kept[token[on & ~old]] = True
        group = np.full(visual, -1)
        for t, o, k, i in zip(token, old, on, into, strict=True):
            whole = before == t if o else np.arange(visual) == t
            if k and o:
                group[whole] = t
            elif i >= 0:
                group[whole] = i
        centre = np.zeros(visual, dtype=bool)
        centre[group[group >= 0]] = True
        score = np.full(visual, np.nan, dtype=np.float32)
        score[token] = np.asarray(choice.score)
        stages.append(Stage(choice.layer, kept, group >= 0, centre, score))
    return stages


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
    kind = getattr(config, "model_type", "")
    if kind in ROWS_OF_PICTURES:
        image = [frame for entry in _entries(image) for frame in entry]
    given = [tuple(_still(frame) for frame in entry) for entry in _entries(image)]
    clips = [_is_clip(entry) for entry in _listed(image)]
    images = getattr(processor, "image_processor", None)
    if images is None and not all(clips):
        raise SparseSightError(f"processor={type(processor).__name__}: it has no image_processor")
    if not all(clips):
        rule_of(config)  # refuses a family that is not known
    moving = iter(
        clip_views(run, processor, inputs, sample, [f for f, clip in zip(given, clips, strict=True) if clip])
    )
    told = {i: next(moving) for i, clip in enumerate(clips) if clip}
    counts = (1, len(given)) if kind in TOGETHER and len(given) > 1 else (1,)
    found = []
    for way, together in product(WAYS.get(kind, ({},)), counts):
        made = [
            told[i] if i in told else views(Asked(config, images, frames[0].size, {**way, **how}, together))
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
