"""The input of a stage and the selection that a method returns: plain data between methods and hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..ops.rows import ROW_CHUNK
from .budget import Schedule
from .facts import UNSAID, Meaning
from .host_count import HostCount

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num


class Counts(NamedTuple):
    """Per-sample counts of one stage: on the device for the selection, on the host for the shapes."""

    keep: Int[Tensor, " b"]
    recycle: Int[Tensor, " b"]
    recycled: tuple[int, ...]
    merged: tuple[int, ...]
    tokens_out: tuple[int, ...]  # kept and merged together


@dataclass(frozen=True)
class Attention:
    """The attention of the pruning layer: queries of the scoring text rows, over all its keys.

    Time and memory are linear in the number of rows, so use :meth:`only` to select those that are needed.
    """

    query: Float[Tensor, "b h r d"]  # after the rotary embedding
    key: Float[Tensor, "b g k d"]  # cached ones included, after the rotary embedding
    # Which keys the rows may see, broadcastable to [b, h, r, k]; boolean or additive. Hosts pass a function of the row
    # numbers [b, r], which creates it for the requested rows.
    mask: Tensor | Callable[[Int[Tensor, "b r"]], Tensor]
    key_column: Int[Tensor, "b v"]  # key of each visual token
    query_position: Num[Tensor, "... b r"]  # rotary positions of the text rows; some have fractions
    key_position: Num[Tensor, "... b k"]  # rotary positions of all keys
    inv_freq: Float[Tensor, " f"] | None  # rotary frequencies; None if the layer has no rotary embedding
    scale: float  # of the attention logits
    softcap: float | None = None
    rotary_axis: Int[Tensor, " f"] | None = None

    def only(
        self, rows: Bool[Tensor, "b r"], at_most: int | None = None
    ) -> tuple[Attention, Bool[Tensor, "b m"]]:
        """The attention of some rows only, compacted to the right, and which rows of the result are valid.

        Args:
            rows: which rows to keep.
            at_most: upper bound of their number in any sample. None: it is read on a CPU, where this is free; on
                another device all rows stay, those to keep on the right.
        """
        width = rows.shape[1]
        if at_most is None:
            at_most = HostCount(rows.sum(1).amax()).read() if rows.device.type == "cpu" else None
        m = width if at_most is None else min(max(at_most, 1), width)
        if m == width and width <= ROW_CHUNK:
            return self, rows  # in one chunk; several are filled from the right, see `HostCount.read`
        index, valid = ops.compact(rows, m)
        mask = self.mask
        if isinstance(mask, Tensor):
            mask = mask.expand(len(index), *mask.shape[1:])
            if mask.shape[2] > 1:
                mask = mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
            made: Tensor | Callable[[Tensor], Tensor] = mask
        else:
            of = mask
            made = lambda more: of(index.gather(1, more))  # noqa: E731
        at = index[:, None, :, None].expand(-1, self.query.shape[1], -1, self.query.shape[3])
        position = self.query_position
        place = index.expand(*position.shape[:-1], -1)
        return replace(
            self, query=self.query.gather(2, at), mask=made, query_position=position.gather(-1, place)
        ), valid

    def allowed(self) -> Tensor:
        """``mask`` of all rows as a tensor, broadcastable to [b, h, r, k]; boolean or additive."""
        if isinstance(self.mask, Tensor):
            return self.mask
        b, _, r, _ = self.query.shape
        return self.mask(torch.arange(r, device=self.query.device).expand(b, -1))

    def received(
        self, rows: Bool[Tensor, "b r"], divisor: Tensor | None = None, at_most: int | None = None
    ) -> Float[Tensor, "b h v"]:
        """Attention that every visual token receives per head, averaged over ``rows`` (see :func:`ops.head_sums`).

        Without a ``divisor`` [b, r, k] it is computed for those rows :meth:`only`; with one, for all rows.
        """
        at = self
        if divisor is None:
            at, rows = self.only(rows, at_most)
        sums = ops.head_sums(at.query, at.key, at.allowed(), rows, at.scale, at.softcap, divisor)
        sums = sums.gather(2, at.key_column[:, None].expand(-1, sums.shape[1], -1))
        return sums / rows.sum(1).clamp(min=1)[:, None, None]

    def mean_attention(self) -> Float[Tensor, "b r v"]:
        """Head-averaged attention from every text row to every visual token."""
        mean = ops.head_mean(self.query, self.key, self.allowed(), self.scale, self.softcap)
        return mean.gather(2, self.key_column[:, None].expand(-1, mean.shape[1], -1))

    def seeing(
        self,
        who: Bool[Tensor, " b"],
        visual: Bool[Tensor, "b v"],
        multiplicity: Float[Tensor, "b v"] | None = None,
    ) -> Attention:
        """The same with the mask lifted for samples ``who``, whose text comes before their visual tokens.

        In a causal decoder no text row attends to a later picture. Here its query is compared with the picture's keys
        anyway, both with their own rotary positions, and as often as they count.
        """
        keys = self.key.shape[2]
        column = self.key_column.masked_fill(~visual, keys)
        seen = torch.zeros(visual.shape[0], keys + 1, dtype=torch.bool, device=visual.device)
        seen = (seen.scatter_(1, column, True)[:, :-1] & who[:, None])[:, None, None]
        weight = torch.zeros(visual.shape[0], keys + 1, device=visual.device)
        if multiplicity is not None:
            weight.scatter_(1, column, multiplicity.log())
        weight = weight[:, None, None, :-1]

        def lifted(mask: Tensor) -> Tensor:
            return mask | seen if mask.dtype == torch.bool else torch.where(seen, weight.to(mask.dtype), mask)

        of = self.mask
        return replace(self, mask=lifted(of) if isinstance(of, Tensor) else lambda row: lifted(of(row)))

    def also(self, allowed: Callable[[Int[Tensor, "b r"]], Bool[Tensor, "b h r k"]]) -> Attention:
        """The same with the mask further restricted to ``allowed``, a function of row numbers; both are boolean."""
        of = self.mask
        assert not isinstance(of, Tensor)
        return replace(self, mask=lambda row: of(row) & allowed(row))

    def rope_weight(self) -> Float[Tensor, "b r k"]:
        """Rotary weight of every (text row, key) pair (see :func:`ops.rope_weight`).

        It is 1 in a layer without rotary positions.
        """
        if self.inv_freq is None:
            return self.key.new_ones(*self.query.shape[::2], self.key.shape[2], dtype=torch.float32)
        d = self.query.shape[-1]
        return ops.rope_weight(self.query_position, self.key_position, self.inv_freq, d, self.rotary_axis)


@dataclass(frozen=True)
class Vision:
    """The vision tower's view of the visual tokens, at the layer whose output goes to the language model."""

    # Attention from the class token to each token's patch (without a class token: from all patches to that patch),
    # averaged over heads; -inf for a token that has no patch, 0 on padding.
    attention: Float[Tensor, "b v"]
    key: Float[Tensor, "b v d"]  # averaged over heads; zero where there is no patch
    # Cosine of each token's patch and the sample's question in the space of a text tower; -inf without a patch, 0 on
    # padding. Only if the method requires it.
    relevance: Float[Tensor, "b v"] | None = None

    def at(self, row: Int[Tensor, "b v"], visual: Bool[Tensor, "b v"]) -> Vision:
        """The values of the rows ``row``; ``visual`` is False on padding. A merged token has its cluster centre's."""
        attention, key = (ops.gather_rows(x, row) for x in (self.attention, self.key))
        relevance = self.relevance
        if relevance is not None:
            relevance = ops.gather_rows(relevance, row).masked_fill(~visual, 0)
        return Vision(attention.masked_fill(~visual, 0), key.masked_fill(~visual[..., None], 0), relevance)


@dataclass(frozen=True)
class StageInput:
    """The input of a method at a stage. ``v`` columns are visual tokens, ``r`` columns the text tokens that score them.

    Before the first layer (``layer`` is -1) there is no attention yet, and ``hidden`` is the input of that layer.
    """

    index: int  # which stage, from 0
    layer: int  # decoder layer after which it prunes, -1 before the first
    planned: Counts | None  # counts of the schedule; None if they depend on the data
    visual: Bool[Tensor, "b v"]  # False on padding
    prunable: Bool[Tensor, " b"]  # False: keep all of this sample (no text follows its visual tokens)
    origin: Int[Tensor, "b v"]  # index among the region's visual tokens, -1 for a merged token
    hidden: Float[Tensor, "b n c"]  # all rows that would enter the next layer
    column: Int[Tensor, "b v"]  # row of `hidden` of each visual token
    text: Bool[Tensor, "b r"]  # False on padding
    text_column: Int[Tensor, "b r"]  # row of `hidden` of each text token
    rater: Bool[Tensor, "b r"]  # which text tokens are raters; none before the first layer
    at: Attention | None  # of layer `layer`; only if the method requires it
    vision: Vision | None = None  # only if the method requires it
    frame: Int[Tensor, "b v"] | None = (
        None  # frame number of each visual token; only if the method requires it
    )
    frame_tokens: Int[Tensor, "b v"] | None = None  # number of tokens that this frame had in the prompt
    rater_count: int | None = (
        None  # upper bound of the raters of any sample; None if the host does not know it
    )
    # How many tokens of the prompt each visual token stands for; None: one each.
    multiplicity: Float[Tensor, "b v"] | None = None

    @property
    def attention(self) -> Attention:
        """The pruning layer's attention; only after a layer, and for methods with ``requires_attention``."""
        assert self.at is not None, (
            "there is no attention before the first layer, or without requires_attention"
        )
        return self.at

    def rater_attention(self) -> tuple[Attention, Bool[Tensor, "b m"]]:
        """The attention of the raters only, and which of its rows are valid (see :meth:`Attention.only`)."""
        return self.attention.only(self.rater, self.rater_count)

    @property
    def tower(self) -> Vision:
        """The vision tower's attention and keys; only for methods with ``requires_vision``."""
        assert self.vision is not None, "the host gave nothing of the vision tower"
        return self.vision

    @property
    def question_relevance(self) -> Float[Tensor, "b v"]:
        """See :attr:`Vision.relevance`; only for methods with ``requires_text_tower``."""
        assert self.tower.relevance is not None, "the host gave nothing of a text tower"
        return self.tower.relevance

    def features(self) -> Float[Tensor, "b v c"]:
        """Hidden states of the visual tokens; padding holds those of another row."""
        return ops.gather_rows(self.hidden, self.column)

    def text_features(self) -> Float[Tensor, "b r c"]:
        """Hidden states of the text tokens; padding holds those of another row."""
        return ops.gather_rows(self.hidden, self.text_column)

    @cached_property
    def question_similarity(self) -> Float[Tensor, "b v"]:
        """The mean cosine of each visual token and the text tokens that score it; zero on padding."""
        text = ops.unit_vectors(self.text_features(), self.text)
        question = text.sum(1, keepdim=True) / self.text.sum(1).clamp(min=1)[:, None, None]
        # On a CPU, a few tokens at a time: what is computed of them stays in the processor's cache.
        many = ROW_CHUNK if self.hidden.device.type == "cpu" else max(self.column.shape[1], 1)
        parts = zip(self.column.split(many, 1), self.visual.split(many, 1), strict=True)
        alike = [
            ops.unit_vectors(ops.gather_rows(self.hidden, column), visual).mul_(question).sum(-1)
            for column, visual in parts
        ]
        return torch.cat(alike, 1)

    def last_text(self) -> Bool[Tensor, "b r"]:
        """A mask of the last text token of each prompt."""
        at = torch.arange(self.text.shape[1], device=self.text.device)
        return at == torch.where(self.text, at, -1).amax(1, keepdim=True)


class Selection(NamedTuple):
    """The result of a method: which visual tokens stay, and the merged tokens."""

    keep: Bool[Tensor, "b v"]
    score: Float[Tensor, "b v"]
    counts: Counts
    recycled: Int[Tensor, "b m"] | None = None  # visual columns that are merged, best score first
    merge: ops.Merge | None = None
    # How many tokens of the prompt each one stands for after the stage, merged ones at their cluster centre; None: one
    # each.
    multiplicity: Float[Tensor, "b v"] | None = None
    meaning: Meaning = UNSAID  # of the scores


def planned_counts(
    schedules: Sequence[Schedule], stages: int, device: torch.device, regions: int = 1
) -> tuple[tuple[Counts, ...], ...]:
    """The counts per region number and stage, moved to the device in one copy.

    ``schedules`` holds the schedules of all samples, for one region number after the other; a schedule without stages
    keeps everything.
    """
    batch = len(schedules) // regions
    numbers = [schedules[i * batch : (i + 1) * batch] for i in range(regions)]
    table: list[tuple[list[int], list[int], list[int]]] = []
    for own in numbers:
        for i in range(stages):
            row = [s.stages[i] if s.stages else None for s in own]
            keep = [x.keep if x else s.visual for x, s in zip(row, own, strict=True)]
            table.append((keep, [x.recycled if x else 0 for x in row], [x.merged if x else 0 for x in row]))
    on_device = torch.tensor([(keep, recycled) for keep, recycled, _ in table]).to(device, non_blocking=True)
    counts = [
        Counts(
            keep=on_device[i, 0],
            recycle=on_device[i, 1],
            recycled=tuple(recycled),
            merged=tuple(merged),
            tokens_out=tuple(k + q for k, q in zip(keep, merged, strict=True)),
        )
        for i, (keep, recycled, merged) in enumerate(table)
    ]
    return tuple(tuple(counts[i * stages : (i + 1) * stages]) for i in range(regions))
