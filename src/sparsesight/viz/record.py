"""The data that drawings need: pictures and their patches, the record of each stage, the prompt and its raters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..core.record import StageRecord
from ..errors import SparseSightError
from .patch_grid import View
from .prompt_tokens import Word

if TYPE_CHECKING:
    from ..report import Report


@dataclass(frozen=True)
class Picture:
    """A picture of the prompt, or a clip, with the model's views of it.

    Attributes:
        frames: a picture has one.
        views: their tokens are numbered through all pictures of the sample.
    """

    frames: tuple[Image.Image, ...]
    views: tuple[View, ...]


@dataclass(frozen=True)
class Look:
    """What the last prefill kept of one sample: plain data, which later prefills do not change.

    Attributes:
        pictures: the pictures with their views.
        stages: in order; empty if the prefill ran dense.
        words: the prompt's text with its raters; empty if ``inputs`` were not given.
        report: the run's report, for its counts.
        sample: index in the batch.
    """

    pictures: tuple[Picture, ...]
    stages: tuple[StageRecord, ...]
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

    def stage(self, number: int) -> StageRecord:
        """Stage ``number``, counted from 0, or from the end if negative.

        Raises:
            SparseSightError: there is no such stage.
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


def checked(look: Any, name: str = "look") -> Look:
    """``look``, checked to be a :class:`Look`.

    Raises:
        SparseSightError: anything else.
    """
    if isinstance(look, Look):
        return look
    raise SparseSightError(
        f"{name}={type(look).__name__}: give what viz.look(run, image, processor, inputs) returned"
    )


def by_name(looks: Any, kinds: tuple[type, ...] = (Look,), single: bool = False) -> dict[str, Any]:
    """``looks`` by name; a single one, if allowed, gets an empty name.

    Raises:
        SparseSightError: anything but a non-empty mapping of strings to ``kinds``.
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
