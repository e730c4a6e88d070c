"""The stages and sizes of a training run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .data import PATCHES


@dataclass(frozen=True)
class Stage:
    """A part of the language model's training."""

    name: str
    layers: int  # of the language model; more than before are grown in between
    steps: int
    pictures: int  # a step
    visible: int  # patches shown
    rate: float
    decay: float  # share of the steps in which the rate falls to nothing
    captions_first: int = 0  # steps with captions alone
    captions: float = 0.25  # share of captions after that
    thoughts: tuple[float, float] = (0.0, 0.0)  # their weight in the loss at the start and at the end
    search: float = (
        0.0  # weight of finding a neighbour by attention, falling to nothing by the middle of the stage
    )
    hard: float = 1.0  # how much likelier than others questions about several objects are asked


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; the defaults take two CPU cores about an hour."""

    width: int = 128
    tower_layers: int = 4
    tower_scenes: int = 3000
    tower_steps: int = 900
    tower_batch: int = 16
    scenes: int = 4000
    val_scenes: int = 96
    per_picture: int = 16  # questions a step
    stages: tuple[Stage, ...] = (
        Stage(
            "seed", 4, 2400, 8, 32, 2e-3, 0.2, captions_first=300, captions=0.15, thoughts=(0.3, 0.3), hard=2
        ),
        Stage("grown", 8, 4000, 8, 32, 1.5e-3, 0.5, captions=0.05, thoughts=(0.3, 0.0), search=0.5, hard=4),
        Stage("whole", 8, 400, 4, PATCHES, 5e-4, 1.0, captions=0.0, hard=2),
    )


def autocast(stage: Stage, device: str) -> torch.autocast:
    """bfloat16 where few patches are shown: there matrix products take the time, elsewhere attention does."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=stage.visible < PATCHES)
