"""Proportional attention, an option of the methods whose tokens stand for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..core.method import Method
from ..core.stage import Selection, StageInput

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Proportional(Method):
    """A method whose tokens can count for those they stand for.

    Attributes:
        proportional: add ``log m`` to every attention logit of a token that stands for ``m`` tokens of the prompt, in
            all layers after the stage, so that it gets the attention that ``m`` equal tokens would get (Bolya et al.,
            arXiv:2210.09461, section 3). A merged token stands for all members of its cluster.
    """

    proportional: bool = False

    @property
    def weights_keys(self) -> bool:
        return self.proportional

    def multiplicity(self, stage: StageInput, selection: Selection) -> Float[Tensor, "b v"] | None:
        """Of a merged token, at its cluster centre: the sum over the cluster. Other tokens have what they had."""
        if not self.proportional:
            return stage.multiplicity
        before = own_multiplicity(stage)
        recycled, merge = selection.recycled, selection.merge
        if recycled is None or merge is None:
            return before
        member = torch.arange(recycled.shape[1], device=recycled.device) < selection.counts.recycle[:, None]
        cluster = merge.assign.clamp(0, merge.centre.shape[1] - 1)  # that of filler may be no cluster
        total = torch.zeros(merge.centre.shape, device=recycled.device)
        total = total.scatter_add(1, cluster, before.gather(1, recycled).masked_fill(~member, 0))
        scratch = before.shape[1]
        centre = recycled.gather(1, merge.centre).masked_fill(~merge.exists, scratch)
        return torch.nn.functional.pad(before, (0, 1)).scatter(1, centre, total)[:, :scratch]


def own_multiplicity(stage: StageInput) -> Float[Tensor, "b v"]:
    """How many tokens each visual token stands for before the stage; 1 on padding."""
    if stage.multiplicity is None:
        return torch.ones(stage.visual.shape, device=stage.visual.device)
    return stage.multiplicity.masked_fill(~stage.visual, 1)


def shared_multiplicity(stage: StageInput, selection: Selection) -> Float[Tensor, "b v"]:
    """Every dropped token counts for the kept token whose hidden state has the largest cosine with its own."""
    before, keep = own_multiplicity(stage), selection.keep
    nearest = ops.nearest_kept(stage.features(), stage.visual, keep, max(*selection.counts.tokens_out, 1))
    own = torch.arange(keep.shape[1], device=keep.device)
    nearest = torch.where(keep, own, nearest)
    gone = before.masked_fill(~stage.visual, 0)
    return torch.zeros_like(before).scatter_add(1, nearest, gone).clamp(min=1)
