"""Read-outs used in training only: what a token of a question should bring to mind.

Of a name, its object; of the end of a question, the object or the number asked for. Each place reads a learned mixture
of all layers, so the loss leaves open at which depth it becomes known.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .batch import Thoughts
from .pictures import ATTRIBUTES

PLACES = 3


class Aids(nn.Module):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.mixture = nn.Parameter(torch.zeros(PLACES, layers + 1))
        self.heads = nn.ModuleList(nn.Linear(width, sum(ATTRIBUTES.values())) for _ in range(PLACES))

    def loss(self, hidden: tuple[torch.Tensor, ...], thoughts: Thoughts) -> torch.Tensor:
        """Mean cross entropy over places and attributes, each in units of a uniform guess."""
        states = torch.stack([state.flatten(0, 1)[thoughts.at] for state in hidden]).float()
        states = F.rms_norm(states, states.shape[-1:])
        parts = []
        for place, head in enumerate(self.heads):
            mine = thoughts.place == place
            if not mine.any():
                continue
            mixed = (self.mixture[place].softmax(0)[:, None, None] * states[:, mine]).sum(0)
            labels = thoughts.label[mine]
            for column, logits in enumerate(head(mixed).split(list(ATTRIBUTES.values()), dim=-1)):
                known = labels[:, column] >= 0
                if known.any():
                    loss = F.cross_entropy(logits[known], labels[known, column])
                    parts.append(loss / math.log(logits.shape[-1]))
        return torch.stack(parts).mean() if parts else states.sum() * 0
