"""The stages and sizes of a run that puts eyes on SmolLM2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sparsesight.scenes.mixed.dataset import PICTURES, WITH_THINGS

from .. import together
from .pictures import PATCHES

HARD = ("letter", "count", "neighbor", "compare")


@dataclass(frozen=True)
class Stage:
    """A part of the training; what helps falls to nothing within it, and stays there."""

    name: str
    steps: int
    pictures: int  # a step
    questions: int  # a picture
    visible: int  # patches shown
    rate: float  # of the deltas
    decay: float  # share of the steps in which the rates fall to nothing
    thoughts: float = 0.0  # weight of the read-outs at the start
    thoughts_until: float = 0.75  # share of the steps after which it is nothing
    search: float = 0.0  # weight of the loss on attention at the start
    search_until: float = 0.5
    counting: float = (
        0.0  # weight of the loss on attention that grows with a number at the start; until search_until
    )
    # kind -> how much likelier than others its questions are asked
    likelier: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(HARD, 2.0))
    replay_every: int = 8  # steps from one replay of plain instructions to the next
    # what pictures show -> its share of the steps: shapes, mixed, pairs
    shares: Mapping[str, float] = field(default_factory=lambda: {"shapes": 1.0})

    # whether patches of mixed scenes are shown as they should look, whatever the tower makes of them
    ideal: bool = False

    def source(self, rng: np.random.Generator) -> str:
        """What the pictures of a step show."""
        if len(self.shares) == 1:
            return next(iter(self.shares))
        share = np.array(list(self.shares.values()))
        return str(rng.choice(list(self.shares), p=share / share.sum()))

    def shown(self, span: int) -> int:
        """How many of the places of a prompt are shown: in proportion where it has two pictures."""
        return span if self.visible == PATCHES else self.visible * round(span / PATCHES)


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; the defaults take about 65 minutes of processor time."""

    about: str = "everything, from the base model"
    rank: int = 32
    shipped_rank: int = 16
    first_scene: int = 0  # of the split
    scenes: int = 1600
    val_scenes: int = 60
    scored: int = 12  # scenes of those at every evaluation
    questions: int = 64  # a scene
    fit_scenes: int = 1200
    fit_steps: int = 1500
    refit: bool = False  # the projector that is gone on from
    middle: float = 0.0  # weight of the word "middle" on the patch in an object's middle
    replayed: int = 4  # instructions at a time
    mixed: int = 0  # mixed scenes that are gone through
    kinds: tuple[str, ...] = tuple(PICTURES)  # of those that questions are asked about
    seen: int = 500  # how many of those are shown as the tower sees them
    eyes_steps: int = 0  # of the tower and the projector on them
    eyes_pictures: tuple[int, int, int] = (2, 2, 5)  # a step: of shapes, of mixed scenes, collages
    eyes_shapes: int = 200  # scenes of shapes that they see
    eyes_inner: int = 1024  # hidden units of the tower's layers
    eyes_rate: float = 2e-3
    eyes_matrix_rate: float = 0.015  # Muon's
    collages: int = 8000
    collage_lines: int = 2000  # lines of text of either sort that collages are made from
    fit_collages: int = 450  # collages of icons that the projector is fitted to
    stages: tuple[Stage, ...] = (
        Stage("few", 1200, 4, 16, 32, 1.5e-3, 0.3, thoughts=1.0, search=0.3, search_until=0.4),
        Stage("whole", 220, 1, 32, PATCHES, 5e-4, 1.0),
    )


BOTH = {"shapes": 0.2, "mixed": 0.54, "pairs": 0.26}
COUNTING = {"count": 6.0, "letter": 2.0, "neighbor": 1.5}
LAGGING = {  # of mixed scenes, and of shapes what a model that knows them answers least well
    **dict.fromkeys(("color", "shape", "size", "where", "exist", "compare"), 0.5),
    **dict.fromkeys(("icons color", "icons shape", "icons where", "pairs both"), 1.3),
    **dict.fromkeys(("icons letter", "icons neighbor", "pairs which"), 1.6),
    **dict.fromkeys(("letter", "icons name", "pairs only"), 2.0),
    "count": 4.0,
    "icons count": 0.8,
    "icons describe": 0.8,
    "icons point": 0.25,
}
WEAKEST = {  # of all scenes, for a model that knows them
    **dict.fromkeys(("letter", "count"), 6.0),
    **dict.fromkeys(("color", "shape", "neighbor"), 1.2),
    **dict.fromkeys(("size", "where", "icons where", "icons compare"), 0.4),
    **dict.fromkeys(("icons name", "pairs only"), 2.0),
    **dict.fromkeys(("icons color", "icons shape", "icons neighbor", "icons describe"), 1.3),
    **dict.fromkeys(("pairs both", "pairs more"), 1.1),
    "compare": 0.8,
    "exist": 0.5,
    "icons letter": 1.8,
    "icons size": 0.9,
    "icons exist": 0.7,
    "icons point": 0.25,
    "pairs exist": 0.6,
}
EVENLY = {"shapes": 0.34, "mixed": 0.44, "pairs": 0.22}
# Of a start that can do the rest, in as many ranks as ship, so that none is lost on the way out; a start of more ranks
# keeps its own.
PLANS = {
    "all": Plan(),
    "counting": Plan(
        about="counting above all, from a model that can do the rest",
        rank=16,
        first_scene=1600,
        fit_scenes=300,
        fit_steps=500,
        refit=True,
        middle=2.0,
        stages=(
            Stage("few", 240, 4, 16, 32, 1e-3, 0.4, 0.3, 0.7, 0.3, 0.7, counting=6.0, likelier=COUNTING),
            Stage("whole", 110, 1, 32, PATCHES, 5e-4, 1.0, likelier=COUNTING),
        ),
    ),
    "mixed": Plan(
        about="a tower and deltas for mixed scenes too, from a model that knows shapes",
        rank=24,
        shipped_rank=24,
        first_scene=3200,
        scenes=600,
        val_scenes=100,
        scored=4,
        fit_scenes=300,
        fit_steps=3000,
        mixed=2400,
        seen=960,
        kinds=WITH_THINGS,
        eyes_steps=1350,
        stages=(
            Stage("told", 180, 2, 10, 40, 1e-3, 0.1, likelier={"count": 3.0}, shares=BOTH, ideal=True),
            Stage(
                *("few", 300, 3, 14, 44, 1.2e-3, 0.3),
                search=0.3,
                search_until=0.6,
                counting=2.0,
                likelier=LAGGING,
                shares=BOTH,
            ),
            Stage("whole", 112, 1, 22, PATCHES, 7e-4, 1.0, likelier=LAGGING, shares=BOTH, replay_every=6),
        ),
    ),
    "longer": Plan(
        about="more of mixed scenes, from a model that knows them; tower and projector stay",
        rank=24,
        shipped_rank=24,
        first_scene=6000,
        scenes=500,
        scored=5,
        mixed=3600,
        seen=1400,
        kinds=WITH_THINGS,
        stages=(
            Stage("few", 240, 3, 14, 44, 1e-3, 0.3, likelier=WEAKEST, shares=EVENLY),
            Stage("whole", 320, 1, 24, PATCHES, 7e-4, 0.7, likelier=WEAKEST, shares=EVENLY, replay_every=6),
        ),
    ),
}


class Optimizer:
    """AdamW under one schedule: a warm-up, a plateau, and a linear fall to nothing."""

    def __init__(self, groups: Iterable[tuple[list[Any], float]], steps: int, decay: float) -> None:
        """`groups` are (weights, rate); the last share `decay` of the `steps` falls to zero."""
        self.adam = torch.optim.AdamW(
            [{"params": weights, "lr": rate} for weights, rate in groups],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        )
        self.rates = [group["lr"] for group in self.adam.param_groups]
        self.weights = [weight for group in self.adam.param_groups for weight in group["params"]]
        self.steps, self.decay, self.warm_up = steps, decay, 30

    def step(self, index: int) -> None:
        """Clip the gradients, apply them with the rates of step `index` and clear them."""
        together.average(self.weights)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        scale = min(1.0, (index + 1) / self.warm_up, (self.steps - index) / (self.steps * self.decay))
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> Any:
        return self.adam.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.adam.load_state_dict(state)
