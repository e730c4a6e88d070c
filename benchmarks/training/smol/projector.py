"""The projector's start: what is on a patch, as a sum of word embeddings.

The target of a patch is the sum of its words' embeddings less the mean embedding of the vocabulary. What all words
share is left out, so a visual token is like the words that are true of it and like no other: then the published rater
rule, which lets patches vote for words by dot products, elects words of content.
"""

from __future__ import annotations

from typing import Any

import torch

from sparsesight.scenes.scenes import SIDE, SceneObject

from .pictures import PATCHES, Pictures
from .prompts import Prompts

ORDINALS = ("first", "second", "third", "fourth", "fifth")  # the column of an object's cell
CARDINALS = ("one", "two", "three", "four", "five")  # its row
GROUND = "background"


def weighted_words(item: SceneObject) -> dict[str, float]:
    """The words that are true of an object's patches, with their weights in the sum."""
    x, y = item.center
    words = {item.shape: 1.0, item.color: 1.0, item.size: 0.7}
    words |= {"left" if x < SIDE / 2 else "right": 0.5, "top" if y < SIDE / 2 else "bottom": 0.5}
    words |= {ORDINALS[item.cell[0]]: 0.5, CARDINALS[item.cell[1]]: 0.5}
    return words | ({item.letter: 1.0} if item.letter else {})


def targets(data: Pictures, prompts: Prompts, table: torch.Tensor, rows: range) -> torch.Tensor:
    """What the patches of the scenes `rows` should look like: [rows, PATCHES, width]."""
    mean = table.mean(0)

    def total(words: dict[str, float]) -> torch.Tensor:
        return sum(
            (weight * (table[prompts.word(word)] - mean) for word, weight in words.items()),
            torch.zeros_like(mean),
        )

    result = torch.empty(len(rows), PATCHES, table.shape[1])
    ground = total({GROUND: 1.0})
    for row in rows:
        known = torch.stack([*(total(weighted_words(item)) for item in data.objects[row]), ground])
        result[row - rows.start] = known[torch.from_numpy(data.owner[row]).long()]  # -1 is the ground
    return 0.8 * result


def fit(projector: Any, data: Pictures, table: torch.Tensor, scenes: int, steps: int, seed: int) -> float:
    """Regress the projector in place; returns the share of the variance it leaves unexplained on the last batches."""
    generator = torch.Generator().manual_seed(seed)
    inputs, wanted = data.features[:scenes].float(), targets(data, data.prompts, table, range(scenes))
    owned = torch.from_numpy(data.owner[:scenes] >= 0)
    chosen = owned | (torch.rand(owned.shape, generator=generator) < 0.25)
    x, y = inputs[chosen], wanted[chosen]
    centre, spread = x.mean(0), x.std(0) + 1e-4
    optimizer = torch.optim.AdamW(projector.parameters(), lr=2e-3, weight_decay=0.0)
    left, middle = 1.0, y.mean(0)
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            bound = linear.in_features**-0.5
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()
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
        first = projector.linear_1
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ centre)
    return left
