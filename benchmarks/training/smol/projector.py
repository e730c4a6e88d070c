"""The projector: what is on a patch, as a sum of word embeddings.

The target of a patch is the sum of its words' embeddings, without what most embeddings share: their mean and their
first principal directions, of which the first tells frequent words from rare ones (Mu and Viswanath 2018, All-but-the-
Top). With those, every sum of words is most like "the" and "and"; without them a visual token is like the words that
are true of it and like no other. Then the published rater rule, which lets patches vote for words by dot products,
elects words of content. The projector stays as it is fitted, so that this cannot be lost in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparsesight.scenes.scenes import SIDE, SceneObject

from .pictures import PATCHES, Pictures
from .prompts import Prompts

ORDINALS = ("first", "second", "third", "fourth", "fifth")  # the column of an object's cell
CARDINALS = ("one", "two", "three", "four", "five")  # its row
GROUND = "background"
MIDDLE = "middle"  # of an object: what is counted is objects, not patches
SHARED = 8  # principal directions that are left out
SCALE = 0.8  # brings a visual token to the length of a word or two


def weighted_words(item: SceneObject) -> dict[str, float]:
    """The words that are true of an object's patches, with their weights in the sum."""
    x, y = item.center
    words = {item.shape: 1.0, item.color: 1.0, item.size: 0.7}
    words |= {"left" if x < SIDE / 2 else "right": 0.5, "top" if y < SIDE / 2 else "bottom": 0.5}
    words |= {ORDINALS[item.cell[0]]: 0.7, CARDINALS[item.cell[1]]: 0.7}
    return words | ({item.letter: 1.0} if item.letter else {})


def own_part(table: torch.Tensor, shared: int = SHARED) -> torch.Tensor:
    """Embeddings [vocabulary, width] less what most of them share: their mean and first principal directions."""
    centred = table - table.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # the largest come last
    first = directions[:, table.shape[1] - shared :]
    return centred - centred @ first @ first.T


def targets(
    data: Pictures, prompts: Prompts, table: torch.Tensor, rows: range, middle: float = 0.0
) -> torch.Tensor:
    """What the patches of the scenes `rows` should look like: [rows, PATCHES, width].

    `middle` is the weight of the word that tells the patch in an object's middle from its others.
    """
    own = own_part(table)

    def total(words: dict[str, float]) -> torch.Tensor:
        return sum(
            (weight * own[prompts.word(word)] for word, weight in words.items()), torch.zeros_like(own[0])
        )

    result = torch.empty(len(rows), PATCHES, table.shape[1])
    ground, core = total({GROUND: 1.0}), total({MIDDLE: middle})
    for row in rows:
        known = torch.stack([*(total(weighted_words(item)) for item in data.objects[row]), ground])
        owner = torch.from_numpy(data.owner[row]).long()  # -1 is the ground
        result[row - rows.start] = known[owner]
        result[row - rows.start, (owner >= 0) & torch.from_numpy(data.central[row])] += core
    return SCALE * result


def fit(
    projector: Any,
    data: Pictures,
    table: torch.Tensor,
    scenes: int,
    steps: int,
    seed: int,
    middle: float = 0.0,
    anew: bool = True,
) -> float:
    """Regress the projector in place, and freeze it; returns the share of the variance it leaves unexplained.

    Not `anew` it goes on from what it is, which deltas may rely on.
    """
    inputs, wanted = data.features[:scenes].float(), targets(data, data.prompts, table, range(scenes), middle)
    chosen = counted(data.owner[:scenes], seed)
    return regress(projector, inputs[chosen], wanted[chosen], steps, seed, anew)


def counted(owner: np.ndarray, seed: int) -> torch.Tensor:
    """The patches that a regression rests on: those that something owns, and a quarter of the others."""
    owned = torch.from_numpy(owner >= 0)
    return owned | (torch.rand(owned.shape, generator=torch.Generator().manual_seed(seed)) < 0.25)


def regress(
    projector: Any, x: torch.Tensor, y: torch.Tensor, steps: int, seed: int, anew: bool = True
) -> float:
    """Regress the projector in place on features x [n, in] and targets y [n, out]; see `fit`."""
    generator = torch.Generator().manual_seed(seed)
    projector.requires_grad_(True)
    centre, spread = x.mean(0), x.std(0) + 1e-4
    optimizer = torch.optim.AdamW(projector.parameters(), lr=2e-3, weight_decay=0.0)
    left, middle = 1.0, y.mean(0)
    first = projector.linear_1
    with torch.no_grad():
        if anew:
            for linear in (first, projector.linear_2):
                bound = linear.in_features**-0.5
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.zero_()
        else:  # of standardised inputs
            first.bias.add_(first.weight @ centre)
            first.weight.mul_(spread)
    for step in range(steps):
        rows = torch.randint(0, len(x), (4096,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            made = projector((x[rows] - centre) / spread)
        loss = (made.float() - y[rows]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 30, 2 * (steps - step) / steps)
        optimizer.step()
        left += (loss.item() / (y[rows] - middle).square().sum(1).mean().item() - left) * 0.1
    with torch.no_grad():  # the standardisation becomes part of the first layer
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ centre)
    projector.requires_grad_(False)
    return left
