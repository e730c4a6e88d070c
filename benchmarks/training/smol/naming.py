"""The projector of mixed scenes, fitted so that a visual token is like the name of its thing and no other name.

What is left of the squared error says little about names: a projector fitted to that alone left 0.17 of the variance
unexplained, and of icons on pictures it had not seen only a third had their own name as the likeliest. A loss on which
name is likeliest, and the icons of collages, of which there are many more, more than double that. So it is with the
letters on cards in scenes of shapes, a small part of the variance: fitted without a loss of their own, the likeliest
letter fell from 0.94 to 0.75 of the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sparsesight.scenes.scenes import LETTERS, SceneObject

from . import collage, mixed, projector
from .pictures import as_seen
from .reader import Reader

NONE = -1  # the name of a patch without an icon
SHARP = 20.0  # what cosines are multiplied with before the softmax over names
NAMING = 0.25  # weight of the loss on names
# patches a step: of icons, of the rest of mixed scenes, of collages, of shapes, of cards among those
MANY = (700, 350, 900, 700, 500)
RATE = 3e-3


def directions(words: Sequence[str], reader: Reader, own: torch.Tensor) -> torch.Tensor:
    """Of names or letters, of length one: [words, width]."""
    told = [mixed.summed(mixed.pieces([(word, 1.0)], reader.prompts), own) for word in words]
    return F.normalize(torch.stack(told), dim=-1)


def lettered(owner: np.ndarray, objects: list[tuple[SceneObject, ...]]) -> torch.Tensor:
    """Which letter is on the card that a patch belongs to: [scenes, patches], or `NONE`."""
    told = torch.full(owner.shape, NONE)
    for row, items in enumerate(objects):
        for index, item in enumerate(items):
            if item.letter:
                told[row][torch.from_numpy(owner[row] == index)] = LETTERS.index(item.letter)
    return told


def patches(
    made: dict[str, Any], features: torch.Tensor, reader: Reader, own: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of mixed scenes the features, the targets and the names of the patches that count."""
    x, y, named, image = [], [], [], 0
    for many, elements in zip(made["images"], made["elements"], strict=True):
        looks = mixed.looks(elements, reader.prompts, own).half()
        icons = [collage.NAMES.index(one.name) if one.kind == "icon" else NONE for one in elements]
        name = torch.tensor([*icons, NONE])
        for _ in range(many):
            owner = torch.from_numpy(made["owner"][image]).long()  # -1 is the last
            chosen = projector.counted(made["owner"][image], seed + image)
            x.append(features[image][chosen])
            y.append(looks[owner][chosen])
            named.append(name[owner][chosen])
            image += 1
    return torch.cat(x), torch.cat(y), torch.cat(named)


def crowd(folder: Any, collages: tuple[np.ndarray, np.ndarray], n: int, tower: Any) -> Any:
    """The features and the names of the icons of up to `n` collages."""
    pixels, told = collages
    rows = np.flatnonzero((told[:, :, 0] == collage.KINDS.index("icon")).any(1))[:n]
    if not len(rows):
        return None
    names = torch.from_numpy(told[rows][:, :, list(collage.FIELDS).index("name")].astype(np.int64))
    features = as_seen(folder / "collage-features.pt", pixels[rows], tower)
    return features[names >= 0], names[names >= 0]


def fit(
    of: Any,
    scenes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    crowd: tuple[torch.Tensor, torch.Tensor] | None,
    shapes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    names: torch.Tensor,
    letters: torch.Tensor,
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Fit a projector in place, and freeze it; what is left of the losses at the end.

    `scenes` are features, targets and names of patches, `crowd` features and names, `shapes` features, targets and
    letters.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y, name = scenes
    groups = (name != NONE).nonzero().ravel(), (name == NONE).nonzero().ravel()
    cards = (shapes[2] != NONE).nonzero().ravel()
    centre, spread = x.float().mean(0), x.float().std(0) + 1e-4
    of.requires_grad_(True)
    first, left = of.linear_1, {"unexplained": 1.0, "names": 0.0, "letters": 0.0}
    with torch.no_grad():  # of standardised inputs
        first.bias.add_(first.weight @ centre)
        first.weight.mul_(spread)
    optimizer = torch.optim.AdamW(of.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)

    def some(n: int, many: int) -> torch.Tensor:
        return torch.randint(0, max(n, 1), (many if n else 0,), generator=generator)

    for step in range(steps):
        icons, rest = (group[some(len(group), many)] for group, many in zip(groups, MANY, strict=False))
        others = some(len(crowd[0]) if crowd else 0, MANY[2])
        card = cards[some(len(cards), MANY[4])]
        known = torch.cat([some(len(shapes[0]), MANY[3]), card])
        told = torch.cat([x[icons], x[rest], shapes[0][known], *([crowd[0][others]] if crowd else [])])
        with torch.autocast("cpu", torch.bfloat16):
            made = of((told.float() - centre) / spread)
        made, n = made.float(), len(icons) + len(rest)
        wanted, kept = torch.cat([y[icons], y[rest]]).float(), shapes[1][known].float()
        mine = (made[:n] - wanted).square().sum(1).mean() / wanted.square().sum(1).mean()
        theirs = (made[n : n + len(known)] - kept).square().sum(1).mean()
        loss = mine + theirs / (kept - kept.mean(0)).square().sum(1).mean()
        left["unexplained"] += (loss.item() / 2 - left["unexplained"]) * 0.05
        goal = torch.cat([name[icons], *([crowd[1][others]] if crowd else [])])
        if len(goal):
            named = torch.cat([made[: len(icons)], made[n + len(known) :]])
            missed = F.cross_entropy(SHARP * F.normalize(named, dim=-1) @ names.T, goal)
            left["names"] += (missed.item() - left["names"]) * 0.05
            loss = loss + NAMING * missed
        if len(card):
            named = made[n + len(known) - len(card) : n + len(known)]
            missed = F.cross_entropy(SHARP * F.normalize(named, dim=-1) @ letters.T, shapes[2][card])
            left["letters"] += (missed.item() - left["letters"]) * 0.05
            loss = loss + NAMING * missed
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50, 1.6 * (steps - step) / steps)
        optimizer.step()
    with torch.no_grad():  # the standardisation becomes part of the first layer
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ centre)
    of.requires_grad_(False)
    return {key: round(value, 4) for key, value in left.items()}
