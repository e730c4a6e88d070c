"""The tower and the projector learn the words of mixed scenes, and keep what they make of shapes.

The projector's targets for icons and writing are sums of word embeddings, as for shapes (see `projector`). What the
tower and the projector that they start from make of scenes of shapes is the target there, so that deltas which read
these go on reading them. Read-outs of names, words and letters, used in training only, teach the tower what to tell
apart; most of its pictures are collages, which have many more of them than scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..tower import normalise
from . import collage, kernels
from .collage import FIELDS, UNKNOWN
from .mixed import looks
from .pictures import PATCHES
from .projector import own_part
from .prompts import Prompts

FEW = 320  # patches that are shown at first: those that something owns, which halves the cost of a step
ALL_FROM = 0.85  # share of the steps from which all are
GROUND_SHARE = 0.2  # of the patches that nobody owns, how many count
# Weights of read-outs; those of the places of a word have `SPELLING`.
WEIGHTS = {"kind": 0.5, "name": 8.0, "word": 0.5, "color": 0.5, "shape": 0.5, "letter": 1.0}
SPELLING = 0.05
NAMING = 0.9  # of the collages, how many have icons, and of mixed pictures


def at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of values [n, PATCHES, ...] those of the places [n, k]: [n, k, ...]."""
    return values[torch.arange(len(values))[:, None], places]


class Eyes(nn.Module):
    """A tower and its projector."""

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def features(self, pixels: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """What the tower makes of uint8 pixels [n, 3, SIDE, SIDE]: [n, PATCHES, width of the tower].

        Or of the patches `places` [n, k] alone: [n, k, width], at the cost of so many.
        """
        tokens = self.tower.embeddings(normalise(pixels))
        if places is not None:
            tokens = torch.cat([tokens[:, :1], at(tokens[:, 1:], places)], dim=1)
        made: torch.Tensor = self.tower.encoder(
            inputs_embeds=self.tower.pre_layrnorm(tokens)
        ).last_hidden_state
        return made[:, 1:]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Visual tokens [n, PATCHES, width] of uint8 pixels [n, 3, SIDE, SIDE]."""
        seen: torch.Tensor = self.projector(self.features(pixels))
        return seen


class ReadOuts(nn.Module):
    """The classes of a patch (`collage.FIELDS`) from what the tower makes of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(FIELDS.values()))

    def losses(self, features: torch.Tensor, told: torch.Tensor) -> dict[str, tuple[torch.Tensor, float]]:
        """Per field the cross entropy and the share that is right, of features [n, width] and classes [n, fields]."""
        logits = self.linear(self.norm(features)).float().split(list(FIELDS.values()), dim=-1)
        found = {}
        for column, (name, guess) in enumerate(zip(FIELDS, logits, strict=True)):
            known = told[:, column] != UNKNOWN
            if known.any():
                goal = told[known, column].long()
                right = (guess[known].argmax(-1) == goal).float().mean().item()
                found[name] = F.cross_entropy(guess[known], goal), right
        return found


def together(losses: dict[str, tuple[torch.Tensor, float]]) -> torch.Tensor:
    """The weighted mean of cross entropies, each in units of a uniform guess."""
    parts = [
        (WEIGHTS.get(name, SPELLING), loss / math.log(FIELDS[name])) for name, (loss, _) in losses.items()
    ]
    return torch.stack([weight * loss for weight, loss in parts]).sum() / sum(weight for weight, _ in parts)


@torch.no_grad()
def widened(tower: Any, inner: int) -> Any:
    """A tower whose layers have `inner` hidden units, and which at first makes the same of every picture."""
    config = deepcopy(tower.config)
    config.intermediate_size = inner
    grown = type(tower)(config)
    old, new = tower.state_dict(), grown.state_dict()
    for name, weight in old.items():
        if new[name].shape == weight.shape:
            new[name].copy_(weight)
        elif ".fc1." in name:
            new[name][: len(weight)].copy_(weight)
        else:  # fc2.weight: what comes of the new units counts for nothing yet
            new[name].zero_()[:, : weight.shape[1]].copy_(weight)
    grown.load_state_dict(new)
    grown.set_attn_implementation(kernels.EVERYWHERE)
    return grown


class Lesson:
    """What the eyes are taught from: scenes of shapes, mixed scenes and collages."""

    def __init__(
        self,
        before: Eyes,
        prompts: Prompts,
        table: torch.Tensor,
        shapes: dict[str, Any],
        mixed: dict[str, Any],
        collages: tuple[np.ndarray, np.ndarray],
        n: int,
    ) -> None:
        """What was rendered is given; `before` are the eyes whose way with the first `n` scenes of shapes is kept."""
        self.prompts, self.own = prompts, own_part(table)
        self.shape_pixels = torch.from_numpy(shapes["pixels"][:n])
        self.shape_owner = shapes["owner"]
        self.projector = deepcopy(before.projector).requires_grad_(False)
        with torch.inference_mode():
            self.shape_features = torch.cat(
                [before.features(part).half() for part in self.shape_pixels.split(8)]
            )
        self.pixels, self.owner = torch.from_numpy(mixed["pixels"]), mixed["owner"]
        self.whose = np.repeat(np.arange(len(mixed["images"])), mixed["images"])
        self.elements, self.collages = mixed["elements"], collages
        icons = (collages[1][:, :, 0] == collage.KINDS.index("icon")).any(1)
        self.crowds = np.flatnonzero(icons), np.flatnonzero(~icons)
        named = np.array([any(one.kind == "icon" for one in self.elements[row]) for row in self.whose])
        self.pictures = np.flatnonzero(named), np.flatnonzero(~named)
        self.known: dict[int, tuple[torch.Tensor, np.ndarray]] = {}

    def shapes(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Pixels, targets [n, PATCHES, width], and owners [n, PATCHES]."""
        told = torch.from_numpy(rows)
        with torch.no_grad():
            wanted = self.projector(self.shape_features[told].float())
        return self.shape_pixels[told], wanted, self.shape_owner[rows]

    def mixed(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, torch.Tensor]:
        """The same of images of mixed scenes, and the classes of their patches [n, PATCHES, fields]."""
        wanted, told = [], []
        for row in rows.tolist():
            picture = int(self.whose[row])
            if picture not in self.known:
                elements = self.elements[picture]
                self.known[picture] = (
                    looks(elements, self.prompts, self.own),  # -1: ground
                    np.array([*map(collage.classes, elements), collage.NOTHING], dtype=np.int16),
                )
            targets, classes = self.known[picture]
            wanted.append(targets[torch.from_numpy(self.owner[row]).long()])
            told.append(classes[self.owner[row]])
        owner = self.owner[rows]
        return (
            self.pixels[torch.from_numpy(rows)],
            torch.stack(wanted),
            owner,
            torch.from_numpy(np.stack(told)),
        )

    def crowded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels of collages, and the classes of their patches."""
        pixels, told = self.collages
        return torch.from_numpy(pixels[rows]), torch.from_numpy(told[rows])


def unexplained(seen: torch.Tensor, wanted: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The share of the variance of visual tokens that is unexplained, over the patches that count."""
    missed = (seen[counts].float() - wanted[counts]).square().sum(-1).mean()
    return missed / (wanted[counts] - wanted[counts].mean(0)).square().sum(-1).mean()


def chosen(rng: np.random.Generator, owned: np.ndarray, n: int) -> torch.Tensor:
    """`n` places of each picture, in order: those that something owns first, any of them if there are more."""
    value = owned + rng.random(owned.shape)
    return torch.from_numpy(np.sort(np.argsort(-value, axis=1)[:, :n], axis=1))


def loss_of(
    parts: Any,
    lesson: Lesson,
    n: tuple[int, int, int],
    seed: int,
    steps: int,
    note: Callable[[str, Any], None],
) -> Callable[[int], torch.Tensor]:
    """The loss of step i of `parts`, eyes and outs, over `n` (pictures of shapes, of mixed scenes, collages)."""
    eyes, outs = parts["eyes"], parts["outs"]

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng([seed, 7, step])
        rows = [rng.choice(len(lesson.shape_pixels), n[0])]
        for (named, written), many in zip((lesson.pictures, lesson.crowds), n[1:], strict=True):
            naming = rng.binomial(many, NAMING)
            rows.append(np.concatenate([rng.choice(named, naming), rng.choice(written, many - naming)]))
        shapes, should, whose = lesson.shapes(rows[0])
        mixed, wanted, owner, told = lesson.mixed(rows[1])
        crowded, classes = lesson.crowded(rows[2])
        owned = np.concatenate([whose >= 0, owner >= 0, classes[..., 0].numpy() < FIELDS["kind"] - 1])
        few = step < ALL_FROM * steps
        places = chosen(rng, owned, FEW if few else PATCHES)
        mine, theirs, others = places.split(n)
        with torch.autocast("cpu", torch.bfloat16):
            features = eyes.features(torch.cat([shapes, mixed, crowded]), places if few else None)
            seen = eyes.projector(features[: n[0] + n[1]])
            counts = torch.from_numpy(
                np.take_along_axis(owned, places.numpy(), 1) | (rng.random(places.shape) < GROUND_SHARE)
            )
            kept = unexplained(seen[: n[0]], at(should, mine), counts[: n[0]])
            learned = unexplained(seen[n[0] :], at(wanted, theirs), counts[n[0] : n[0] + n[1]])
            told = torch.cat([at(told, theirs), at(classes, others)])
            named = outs.losses(features[n[0] :][counts[n[0] :]], told[counts[n[0] :]])
        answer = together(named)
        for name, value in {"shapes": kept, "mixed": learned, "read-outs": answer}.items():
            note(name, value)
        return 2 * kept + learned + 5 * answer

    return loss


@torch.no_grad()
def scores(parts: Any, lesson: Lesson, pictures: int) -> dict[str, Any]:
    """Of held-out pictures: the share of the variance that is unexplained, and the shares of right read-outs."""
    eyes, outs = parts["eyes"], parts["outs"]
    rows = np.arange(pictures)
    pixels, should, whose = lesson.shapes(rows)
    told = {"shapes unexplained": unexplained(eyes(pixels), should, torch.from_numpy(whose >= 0)).item()}
    pixels, wanted, owner, classes = lesson.mixed(np.arange(2 * pictures))
    features = torch.cat([eyes.features(part) for part in pixels.split(8)])
    owned = torch.from_numpy(owner >= 0)
    told["mixed unexplained"] = unexplained(eyes.projector(features), wanted, owned).item()
    told |= {name: right for name, (_, right) in outs.losses(features[owned], classes[owned]).items()}
    return {name: round(value, 4) for name, value in told.items()}
