"""The tower and the projector learn the words of mixed scenes, and keep what they make of shapes.

The projector's targets for icons and writing are sums of word embeddings, as for shapes (see `projector`). What the
tower and the projector that they start from make of scenes of shapes is the target there, so that deltas which read
these go on reading them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsesight.scenes.mixed.dataset import SPLITS, picture_of
from sparsesight.scenes.scenes import render

from ..tower import normalise
from .mixed import pieces, pixels_of, spoken, summed
from .pictures import PATCHES
from .projector import GROUND, SCALE, own_part
from .prompts import Prompts

GROUND_SHARE = 0.2  # of the patches that nobody owns, how many count


class Eyes(nn.Module):
    """A tower and its projector."""

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Visual tokens [n, PATCHES, width] of uint8 pixels [n, 3, SIDE, SIDE]."""
        seen: torch.Tensor = self.projector(
            self.tower(pixel_values=normalise(pixels)).last_hidden_state[:, 1:]
        )
        return seen


class Teacher:
    """Pictures with what their patches should look like."""

    def __init__(self, eyes: Eyes, prompts: Prompts, table: torch.Tensor, first_shape_seed: int) -> None:
        self.before = deepcopy(eyes).requires_grad_(False)
        self.prompts, self.own, self.first_shape_seed = prompts, own_part(table), first_shape_seed
        self.ground = SCALE * summed(pieces([(GROUND, 1.0)], prompts), self.own)

    def shapes(self, rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels, targets [n, PATCHES, width], and which patches count [n, PATCHES]."""
        scenes = [render(self.first_shape_seed + int(rng.integers(50_000))) for _ in range(n)]
        pixels = torch.from_numpy(np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene in scenes]))
        owned = np.stack([scene.owner.ravel() >= 0 for scene in scenes])
        with torch.no_grad():
            return pixels, self.before(pixels), self.count(rng, owned)

    def mixed(self, rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same of mixed scenes; of a pair both pictures are shown."""
        split = SPLITS["train"]
        pictures = [picture_of(split, int(rng.integers(split.scenes))) for _ in range(n)]
        pixels = torch.from_numpy(pixels_of(pictures))
        owner = np.concatenate([picture.owner.reshape(-1, PATCHES) for picture in pictures])
        whose = [picture for picture in pictures for _ in picture.images]
        wanted = torch.stack(
            [
                torch.stack([*map(self.target, picture.elements), self.ground])[
                    torch.from_numpy(row)
                ]  # -1: ground
                for picture, row in zip(whose, owner, strict=True)
            ]
        )
        return pixels, wanted, self.count(rng, owner >= 0)

    def target(self, element: Any) -> torch.Tensor:
        return SCALE * summed(pieces(spoken(element), self.prompts), self.own)

    def count(self, rng: np.random.Generator, owned: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(owned | (rng.random(owned.shape) < GROUND_SHARE))


def loss_of(eyes: Eyes, teacher: Teacher, n: int, seed: int) -> Callable[[int], torch.Tensor]:
    """The loss of step i: as many pictures of shapes as of mixed scenes, `n` in all."""

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([seed, 7, step])
        parts = [teacher.shapes(rng, n // 2), teacher.mixed(rng, n - n // 2)]
        total = torch.zeros(())
        for pixels, wanted, counts in parts:
            with torch.autocast("cpu", torch.bfloat16):
                seen = eyes(pixels)
            missed = (seen.float() - wanted).square().sum(-1)[counts].mean()
            total = total + missed / (wanted[counts] - wanted[counts].mean(0)).square().sum(-1).mean()
        return total / len(parts)

    return loss


def scores(eyes: Eyes, teacher: Teacher, seed: int) -> dict[str, Any]:
    """Of eight pictures of each sort, the same every time: the share of the variance that is unexplained."""
    rng = np.random.default_rng([seed, 8])
    told = {}
    for name, make in (("shapes", teacher.shapes), ("mixed", teacher.mixed)):
        pixels, wanted, counts = make(rng, 8)
        missed = (eyes(pixels) - wanted).square().sum(-1)[counts].mean()
        told[f"{name} unexplained"] = (
            missed / (wanted[counts] - wanted[counts].mean(0)).square().sum(-1).mean()
        )
    return {name: round(float(value), 4) for name, value in told.items()}
