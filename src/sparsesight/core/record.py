"""The record of a stage: what it did with every visual token of the prompt, as reports and pictures read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .budget import BEFORE
from .facts import UNSAID, Meaning
from .stage import Selection
from .step import Chosen

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class StageRecord:
    """One stage of one sample; ``v`` are all visual tokens of the sample, in the order of the prompt.

    Attributes:
        layer: it pruned after this layer; -1: before the first.
        kept: tokens that remain unchanged.
        into: for each token that is part of a remaining merged token, the token whose position that has (the centre of
            its cluster); -1 for the others.
        score: float32, the method's score of each token that entered this stage, larger is better; ``nan`` for the
            others. A merged token has its score at its centre.
        multiplicity: float32, for how many tokens of the prompt each remaining token counts in attention (a merged one
            at its centre), 0 for the others; None if each counts for one.
        meaning: what the scores are, and which tokens were kept, in words of the method.
    """

    layer: int
    kept: Bool[np.ndarray, " v"]
    into: Int[np.ndarray, " v"]
    score: Float[np.ndarray, " v"]
    multiplicity: Float[np.ndarray, " v"] | None = None
    meaning: Meaning = UNSAID

    @property
    def merged(self) -> Bool[np.ndarray, " v"]:
        """Tokens that are part of a remaining merged token."""
        return self.into >= 0

    @property
    def centre(self) -> Bool[np.ndarray, " v"]:
        """Tokens whose position a remaining merged token has."""
        return self.into == np.arange(len(self.into))

    @property
    def told_apart(self) -> bool:
        """Whether the scores differ, so that a picture of them shows something."""
        return len(np.unique(self.score[np.isfinite(self.score)])) > 1

    @property
    def where(self) -> str:
        return "before layer 0" if self.layer == BEFORE else f"after layer {self.layer}"

    @property
    def said(self) -> str:
        """``120 of 576: half by the question, half for variety``."""
        return f"{self.counts()}: {self.meaning.kept}" if self.meaning.kept else self.counts()

    def counts(self, short: bool = False) -> str:
        """``66 + 8 merged of 576``, or short ``66+8 of 576``."""
        merged = int(self.centre.sum())
        more = "" if not merged else f"+{merged}" if short else f" + {merged} merged"
        return f"{self.kept.sum()}{more} of {self.kept.size}"


@dataclass(frozen=True)
class StageTensors:
    """One stage of a batch, on the device; ``v`` is the largest number of visual tokens of any sample."""

    layer: int
    kept: Bool[Tensor, "b v"]
    into: Int[Tensor, "b v"] | None  # None if nothing has been merged
    score: Float[Tensor, "b v"]
    multiplicity: Float[Tensor, "b v"] | None = None  # None if each token counts for one
    meaning: Meaning = UNSAID

    @classmethod
    def of(
        cls,
        layer: int,
        chosen: Sequence[Chosen],
        token: Int[Tensor, "b n"],
        most: int,
        before: StageTensors | None = None,
    ) -> StageTensors:
        """Record what was chosen; no synchronisation.

        Args:
            layer: the pruning layer.
            chosen: per region number.
            token: of each row of the input, its index among the sample's visual tokens.
            most: the largest number of visual tokens of any sample.
            before: the record of the previous stage.
        """
        shape = token.shape[0], most + 1  # padding is written to a scratch column
        kept = token.new_zeros(shape, dtype=torch.bool)
        score = token.new_full(shape, torch.nan, dtype=torch.float32)
        earlier = None if before is None else before.into
        merges = earlier is not None or any(x.selection.merge is not None for x in chosen)
        into = token.new_full(shape, -1) if merges else None
        counts = any(x.selection.multiplicity is not None for x in chosen)
        multiplicity = torch.zeros(shape, device=token.device) if counts else None
        for stage, selection, source in chosen:
            own = token.gather(1, source)
            at = own.masked_fill(~stage.visual, most)
            score.scatter_(1, at, selection.score.float())
            if multiplicity is not None and selection.multiplicity is not None:
                left = selection.multiplicity.masked_fill(~remaining(selection), 0)
                multiplicity.scatter_(1, at, left)
            old = stage.origin < 0  # merged at an earlier stage
            kept.scatter_(1, at, selection.keep & ~old if merges else selection.keep)
            if into is None:
                continue
            into.scatter_(1, at, own.masked_fill(~(selection.keep & old), -1))
            recycled, merge = selection.recycled, selection.merge
            if recycled is None or merge is None:
                continue
            cluster = merge.assign.clamp(0, merge.centre.shape[1] - 1)  # that of filler may be no cluster
            count = torch.tensor(selection.counts.recycled).to(token.device, non_blocking=True)
            filler = torch.arange(recycled.shape[1], device=token.device) >= count[:, None]
            own = own.gather(1, recycled)
            into.scatter_(
                1,
                own.masked_fill(filler, most),
                own.gather(1, merge.centre.gather(1, cluster)).masked_fill(filler, -1),
            )
        if into is not None and earlier is not None:
            # Members of an earlier merged token follow it.
            into = into.gather(1, torch.where(earlier >= 0, earlier, torch.arange(most, device=token.device)))
        multiplicity = None if multiplicity is None else multiplicity[:, :-1]
        into = None if into is None else into[:, :most]
        said = (x.selection.meaning for x in chosen)
        meaning = next((x for x in said if x != UNSAID), UNSAID)  # not of a region without text
        return cls(layer, kept[:, :-1], into, score[:, :-1], multiplicity, meaning)

    def samples(self, visual: Sequence[int]) -> list[StageRecord]:
        """The record of each sample, given its number of visual tokens; waits for the device."""
        kept, score = self.kept.cpu().numpy(), self.score.cpu().numpy()
        into = np.full(kept.shape, -1) if self.into is None else self.into.cpu().numpy()
        counts = None if self.multiplicity is None else self.multiplicity.cpu().numpy()
        return [
            StageRecord(
                self.layer,
                kept[i, :v],
                into[i, :v],
                score[i, :v],
                None if counts is None else counts[i, :v],
                self.meaning,
            )
            for i, v in enumerate(visual)
        ]


def remaining(selection: Selection) -> Bool[Tensor, "b v"]:
    """The visual columns that remain: kept ones, and the cluster centres of merged ones."""
    keep, recycled, merge = selection.keep, selection.recycled, selection.merge
    if recycled is None or merge is None:
        return keep
    width = keep.shape[1]
    centre = recycled.gather(1, merge.centre).masked_fill(~merge.exists, width)
    return torch.nn.functional.pad(keep, (0, 1)).scatter(1, centre, True)[:, :width]
