"""Stage one: the vision tower and the projector learn to name what every patch shows.

The classifier is the language model's own table of word embeddings, so a visual token arrives in the language
model close to the words that are true of it. All other words of the vocabulary, question words included, are
its rivals: this is what lets the published rater rule tell words of content from the rest. Words that are
never true of a patch move together (`tie_other_words`): one direction is enough to reject them all, and moved
one by one they would all end up alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sparsesight.scenes.scenes import GRID

from .data import Scenes

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Aids(nn.Module):
    """Read-outs used in training only: where the object's middle lies, and the patch; x and y, from -1 to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 4)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(self.linear(tokens), [2, 2], dim=-1)


def tie_other_words(table: nn.Embedding, content: list[int]) -> None:
    """From now on all rows of the table but those of `content` are changed alike, by their mean gradient."""
    other = torch.ones(len(table.weight), dtype=torch.bool, device=table.weight.device)
    other[content] = False

    def share(gradient: torch.Tensor) -> torch.Tensor:
        return torch.where(other[:, None], gradient[other].sum(0) / other.sum(), gradient)

    table.weight.register_hook(share)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """What CLIP's image processor makes of uint8 pixels [n, 3, SIDE, SIDE]."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def visual_tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The projected tokens of uint8 pictures: [n, PATCHES, width]."""
    hidden = model.model.vision_tower(pixel_values=normalise(pixels)).last_hidden_state
    projected: torch.Tensor = model.model.multi_modal_projector(hidden[:, 1:])
    return projected


def loss(
    model: Any, aids: Aids, pixels: torch.Tensor, scenes: Scenes, rows: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss, and the logits [n, PATCHES, words] it was computed from."""
    device = pixels.device
    put = lambda array: torch.from_numpy(array[rows]).to(device)  # noqa: E731
    tokens = visual_tokens(model, pixels)
    logits = tokens @ model.get_input_embeddings().weight.T
    words, owner, place = put(scenes.words).long(), put(scenes.owner), put(scenes.place)
    owned = owner >= 0
    true = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, words, True)
    true[..., 0] = False  # word 0 pads the lists
    rivals = logits.masked_fill(true, -torch.inf).logsumexp(-1, keepdim=True)
    missed = (F.softplus(rivals - logits) * true).sum(-1)
    result = missed[owned].mean() + 0.3 * missed[~owned].mean()

    spot, own_spot = aids(tokens)
    result = result + 4 * F.smooth_l1_loss(spot[owned], place[owned], beta=0.05)
    line = (torch.arange(GRID, device=device) + 0.5) / GRID * 2 - 1
    own = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 2).expand_as(own_spot)
    result = result + F.smooth_l1_loss(own_spot, own, beta=0.05)
    return result, logits
