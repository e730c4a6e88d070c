"""The contract between a token-reduction method and whatever runs the model.

A host (the transformers integration, the vLLM plugin) builds a :class:`StageInput` at every pruning layer and gets a
:class:`Selection` back. A method says which text tokens judge (``rate``), how much each visual token matters
(``score``) and how many stay (``plan``, or ``counts`` where the data decide). Everything that must hold for every
method, exact counts, stable ties, order, recycling, lives in :meth:`Method.select` and is written once.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..budget import Retain, Schedule, as_published, check_layers, check_retain, plan, pruning_layers
from ..errors import SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num


# More visual tokens than any picture has: what cannot be met with these cannot be met.
ANY_PICTURE = 1_000_000


class Counts(NamedTuple):
    """Per-sample counts of one stage: on the device what selects, on the host what fixes shapes."""

    keep: Int[Tensor, " b"]
    recycle: Int[Tensor, " b"]
    recycled: tuple[int, ...]
    merged: tuple[int, ...]
    tokens_out: tuple[int, ...]  # kept and merged together


@dataclass(frozen=True)
class StageInput:
    """What a method may see at a pruning layer. ``v`` columns are visual tokens, ``r`` rows are text tokens."""

    index: int  # which stage, from 0
    layer: int  # decoder layer after which it prunes
    planned: Counts | None  # counts of the schedule; None for a method that decides from data
    visual: Bool[Tensor, "b v"]  # False on padding
    prunable: Bool[Tensor, " b"]  # False: keep all of this sample (no text follows its visual tokens)
    origin: Int[Tensor, "b v"]  # index among the sample's visual tokens, -1 for a merged token
    hidden: Float[Tensor, "b n c"]  # output of the pruning layer, all rows
    column: Int[Tensor, "b v"]  # row of `hidden` of each visual token
    rater: Bool[Tensor, "b r"]  # which text rows judge
    query: Float[Tensor, "b h r d"]  # this layer's queries of the text rows, after the rotary embedding
    key: Float[Tensor, "b g k d"]  # this layer's keys, cached ones included, after the rotary embedding
    mask: Tensor  # which keys the rows may see, broadcastable to [b, h, r, k]; boolean or additive
    key_column: Int[Tensor, "b v"]  # key of each visual token
    query_position: Num[Tensor, "... b r"]  # rotary positions of the text rows; some have fractions
    key_position: Num[Tensor, "... b k"]  # rotary positions of all keys
    inv_freq: Float[Tensor, " f"] | None  # rotary frequencies; None if the layer has no rotary embedding
    scale: float  # of the attention logits
    softcap: float | None = None
    rotary_axis: Int[Tensor, " f"] | None = None
    frame: Int[Tensor, "b v"] | None = None  # number of each visual token's frame; only where the method asks
    frame_tokens: Int[Tensor, "b v"] | None = None  # how many tokens that frame had in the prompt

    def received(self, divisor: Tensor | None = None) -> Float[Tensor, "b h v"]:
        """Attention every visual token receives per head, averaged over the raters (see :func:`ops.head_sums`)."""
        sums = ops.head_sums(self.query, self.key, self.mask, self.rater, self.scale, self.softcap, divisor)
        sums = sums.gather(2, self.key_column[:, None].expand(-1, sums.shape[1], -1))
        return sums / self.rater.sum(1).clamp(min=1)[:, None, None]

    def mean_attention(self) -> Float[Tensor, "b r v"]:
        """Head-averaged attention from every text row to every visual token."""
        mean = ops.head_mean(self.query, self.key, self.mask, self.scale, self.softcap)
        return mean.gather(2, self.key_column[:, None].expand(-1, mean.shape[1], -1))

    def gravity(self) -> Float[Tensor, "b r k"]:
        """Rotary weight of every (text row, key) pair (see :func:`ops.rotary_gravity`).

        It is 1 in a layer without rotary positions, where there is nothing to divide out.
        """
        if self.inv_freq is None:
            return self.key.new_ones(*self.query.shape[::2], self.key.shape[2], dtype=torch.float32)
        d = self.query.shape[-1]
        return ops.rotary_gravity(self.query_position, self.key_position, self.inv_freq, d, self.rotary_axis)


class Selection(NamedTuple):
    """What a method returns: which visual tokens stay, and what the merged ones became."""

    keep: Bool[Tensor, "b v"]
    score: Float[Tensor, "b v"]
    counts: Counts
    recycled: Int[Tensor, "b m"] | None = None  # visual columns that are merged, best score first
    merge: ops.Merge | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A token-reduction method as plain data: frozen, comparable, JSON-serialisable.

    Attributes:
        retain: average visual tokens per layer (int), a ratio in (0, 1], or kept counts per stage (tuple); see
            :mod:`sparsesight.budget`.
        layers: 0-based decoder layers after which to prune; by default the published relative depths.
        positions: ``"original"`` keeps every token's rotary position; ``"compact"`` renumbers the tokens of each
            stage from zero and places merged tokens after the kept ones, as SparseVLM v1.x does.
        always_drop: the published clamp, every stage drops at least one token. Off by default: a budget that the
            picture already meets leaves it alone.
        per_frame: spread what is kept over the frames of clips, and over pictures: each keeps the same share, to
            within rounding (:func:`ops.group_ranks`), instead of competing for the budget of the whole prompt. How
            many tokens a stage keeps in all is the same.

    Raises:
        BudgetError: if ``retain`` or ``layers`` cannot be a budget.
        SparseSightError: if another field has no meaning.
    """

    retain: Retain = 64
    layers: tuple[int, ...] | None = None
    positions: Literal["original", "compact"] = "original"
    always_drop: bool = False
    per_frame: bool = False

    name: ClassVar[str]
    depths: ClassVar[tuple[int, ...]] = (2, 6, 15)  # published pruning layers, of 32
    published_budgets: ClassVar[Mapping[int, tuple[int, ...]]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _plain(value))
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise SparseSightError(f"{field.name}={value!r}: use True or False")
        check_retain(self.retain)
        if self.layers is not None:
            check_layers(self.layers)
        if self.positions not in ("original", "compact"):
            raise SparseSightError(f"positions={self.positions!r}: use 'original' or 'compact'")

    # -- the three things a method decides ---------------------------------------------------------------------

    def rate(
        self,
        visual: Float[Tensor, "b v c"],
        text: Float[Tensor, "b t c"],
        visual_mask: Bool[Tensor, "b v"],
        text_mask: Bool[Tensor, "b t"],
    ) -> Bool[Tensor, "b t"]:
        """Which text tokens judge, from the embeddings entering layer 0. Default: :func:`ops.text_raters`."""
        return ops.text_raters(visual, text, visual_mask, text_mask)

    @abstractmethod
    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """How much each visual token matters; larger is better."""

    def counts(self, stage: StageInput) -> Counts:
        """How many tokens stay. Default: the schedule's counts, known before any tensor exists."""
        assert stage.planned is not None
        return stage.planned

    # -- written once for all methods -------------------------------------------------------------------------

    @property
    def data_dependent(self) -> bool:
        """Whether counts depend on the data (then there is no schedule and a stage costs one device sync)."""
        return False

    @property
    def recycled_fraction(self) -> float:
        """Fraction of the dropped tokens that is merged and kept."""
        return 0.0

    def stage_layers(self, num_layers: int, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The pruning layers in a decoder of ``num_layers``.

        Raises:
            BudgetError: if they do not fit, or no picture could meet the budget with them.
            SparseSightError: if one is not ``allowed``.
        """
        layers = self._layers(num_layers, allowed)
        if not self.data_dependent and not isinstance(self.retain, int):
            # A ratio or counts that no picture could meet fail now.
            self.plan(ANY_PICTURE, num_layers, layers)
        return layers

    def _layers(self, num_layers: int, allowed: tuple[int, ...] | None) -> tuple[int, ...]:
        if self.layers is None:
            depths = self.depths
            if isinstance(self.retain, tuple) and not self.data_dependent:
                depths = depths[: len(self.retain)]
            return pruning_layers(depths, num_layers, allowed)
        check_layers(self.layers, num_layers)
        bad = [] if allowed is None else [x for x in self.layers if x not in allowed]
        if bad:
            raise SparseSightError(
                f"layers={self.layers!r}: this model cannot prune after {bad}; possible: {allowed}"
            )
        return self.layers

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        """The schedule for ``visual`` tokens (see :func:`sparsesight.budget.plan`)."""
        table = self.published_budgets if layers == self.depths else {}
        return plan(
            self.retain,
            visual,
            num_layers,
            layers,
            recycle=self.recycled_fraction,
            always_drop=self.always_drop,
            published=as_published(table),
        )

    def select(self, stage: StageInput) -> Selection:
        """Score, keep exactly the counted tokens (ties to the earlier one), and merge what is recycled."""
        with torch.no_grad():
            score = self.score(stage)
            counts = self.counts(stage)
            place = ops.ranks(score, stage.visual)
            if self.per_frame:
                if stage.frame is None or stage.frame_tokens is None:
                    raise SparseSightError(
                        "per_frame=True: it is not known which frames the visual tokens are of"
                    )
                place = ops.group_ranks(place, stage.frame, stage.frame_tokens, stage.visual)
            keep = (place < counts.keep[:, None]) & stage.visual
            if not any(counts.merged):
                return Selection(keep, score, counts)
            behind = place - counts.keep[:, None]
            recycled, _ = ops.first_ranked(behind, stage.visual & ~keep, counts.recycle, max(counts.recycled))
        tokens = ops.take(stage.hidden, stage.column.gather(1, recycled))
        merge = ops.density_peaks_merge(tokens, counts.recycled, counts.merged)
        return Selection(keep, score, counts, recycled, merge)

    def to_dict(self) -> dict[str, Any]:
        """This method as JSON-ready data; :func:`sparsesight.methods.from_dict` reads it back."""
        return {"method": self.name, **dataclasses.asdict(self)}


def is_number(value: object) -> bool:
    """Whether a field holds a finite number; ``True`` is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """The JSON-ready equal of a field: lists (JSON, the command line) become tuples, numpy's numbers Python's."""
    if isinstance(value, list | tuple):
        return tuple(_plain(x) for x in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def planned_counts(schedules: Sequence[Schedule], stages: int, device: torch.device) -> tuple[Counts, ...]:
    """The counts of every stage for a batch, moved to the device in one copy.

    ``schedules`` holds one entry per sample; a schedule without stages keeps everything.
    """
    table: list[tuple[list[int], list[int], list[int]]] = []
    for i in range(stages):
        row = [s.stages[i] if s.stages else None for s in schedules]
        keep = [x.keep if x else s.visual for x, s in zip(row, schedules, strict=True)]
        table.append((keep, [x.recycled if x else 0 for x in row], [x.merged if x else 0 for x in row]))
    on_device = torch.tensor([(keep, recycled) for keep, recycled, _ in table]).to(device, non_blocking=True)
    return tuple(
        Counts(
            keep=on_device[i, 0],
            recycle=on_device[i, 1],
            recycled=tuple(recycled),
            merged=tuple(merged),
            tokens_out=tuple(k + q for k, q in zip(keep, merged, strict=True)),
        )
        for i, (keep, recycled, merged) in enumerate(table)
    )
