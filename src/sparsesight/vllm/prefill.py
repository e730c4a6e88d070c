"""One request's prompt on its way through the decoder: what a method is shown, and which rows are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import ops
from ..core.host_count import HostCount
from ..core.rows import RegionSizes, Rows
from ..core.stage import Attention, Counts, planned_counts
from ..core.step import StageFacts, TextRows, choose_raters, run_stage
from .planner import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class LayerFacts:
    """What does not change of a pruning layer's attention; heads are those of all tensor-parallel ranks."""

    heads: int
    kv_heads: int
    head_size: int
    scale: float
    softcap: float | None
    inv_freq: Tensor | None  # fp32 [f]; None without a rotary embedding
    rotary_axis: Tensor | None = None  # int64 [f]: position axis of each frequency; None if there is one axis
    gather: Callable[[Tensor], Tensor] | None = None  # puts [n, c] of each rank side by side, in their order

    @classmethod
    def of(cls, self_attn: Any) -> LayerFacts:
        """Of a decoder layer's attention module in vLLM."""
        attention = self_attn.attn
        rotary = getattr(self_attn, "rotary_emb", None)
        gather: Callable[[Tensor], Tensor] | None = None
        if attention.num_heads < self_attn.total_num_heads:
            from vllm import distributed

            gather = distributed.tensor_model_parallel_all_gather
        return cls(
            gather=gather,
            heads=self_attn.total_num_heads,
            kv_heads=self_attn.total_num_kv_heads,
            head_size=attention.head_size,
            scale=attention.impl.scale,
            softcap=getattr(attention.impl, "logits_soft_cap", None) or None,
            inv_freq=None if rotary is None else rotary._compute_inv_freq(rotary.base).float(),
            rotary_axis=rotary_axis(rotary),
        )

    def all_heads(self, own: Float[Tensor, "n hd"], heads: int) -> Float[Tensor, "n h d"]:
        """All ``heads`` of queries or keys, from those that this rank holds.

        Every rank gets the same, and so chooses the same: nothing of the choice is exchanged. Where there are more
        ranks than key heads, neighbours hold the same one.
        """
        every = own if self.gather is None else self.gather(own.contiguous())
        every = every.view(len(own), -1, self.head_size)
        return every[:, :: every.shape[1] // heads]


def rotary_axis(rotary: Any) -> Int[Tensor, " f"] | None:
    """Which of time, height and width each frequency of one of vLLM's rotary embeddings reads; None if not several.

    Axes have a section each, one after another, or take turns as long as their sections last, then time has the rest.
    """
    if not getattr(rotary, "mrope_section", None):
        return None
    sections = torch.tensor(rotary.mrope_section)
    if not rotary.mrope_interleaved:
        return torch.arange(len(sections)).repeat_interleave(sections)
    place = torch.arange(int(sections.sum()))
    turn = place % len(sections)
    return turn.where(place // len(sections) < sections[turn], 0)


@dataclass
class Prefill:
    """A prompt of a single request, [1, n] everywhere; it never holds filler."""

    prompt: Prompt
    layers: tuple[int, ...]  # pruning layers
    rows: Rows
    sizes: tuple[RegionSizes, ...]  # of the regions now
    counts: tuple[tuple[Counts, ...], ...]  # per region number and stage
    rater_counts: tuple[HostCount | None, ...] = ()  # per region number
    in_front: tuple[
        Tensor, ...
    ] = ()  # per region number, boolean [1]: whether its text stands in front of it
    kept: list[Tensor] = field(default_factory=list)  # per stage: rows of the prompt that are left

    @classmethod
    def of(cls, prompt: Prompt, layers: tuple[int, ...], device: torch.device) -> Prefill:
        visual = torch.from_numpy(prompt.visual).to(device, non_blocking=True)[None]
        rows = Rows.start(torch.ones_like(visual), visual, prompt.prompt)
        schedules, regions = prompt.parts or (prompt.schedule,), prompt.regions
        sizes: tuple[RegionSizes, ...] = (RegionSizes((prompt.schedule.visual,), (prompt.text,)),)
        in_front: tuple[Tensor, ...] = ()
        if regions is not None:
            sizes = regions.sizes
            number = None if regions.number is None else _over(regions.number, rows.origin)
            rows = rows.divided(_over(regions.text, rows.text), number)
            in_front = tuple(torch.tensor(x).to(device, non_blocking=True) for x in regions.in_front)
        counts = planned_counts(schedules, len(layers), device, len(schedules))
        return cls(prompt, layers, rows, sizes, counts, in_front=in_front)

    def rate(self, hidden: Float[Tensor, "n c"]) -> None:
        """Choose the raters, from what enters the first layer."""
        method = self.prompt.method
        if method.requires_raters:
            with torch.no_grad():
                chosen = choose_raters(method, self.rows, self.sizes, self._text(), hidden[None])
                self.rows, self.rater_counts = chosen

    def select(
        self,
        index: int,
        hidden: Float[Tensor, "n c"],
        query: Float[Tensor, "n hd"],
        key: Float[Tensor, "n gd"],
        position: Int[Tensor, "... n"],
        facts: LayerFacts,
    ) -> tuple[Int[Tensor, " m"], Tensor, Tensor]:
        """Let the method choose after its ``index``-th pruning layer.

        Args:
            index: which stage.
            hidden: what would enter the next layer.
            query, key: of the pruning layer, after the rotary embedding; this rank's heads side by side.
            position: rotary positions, [n] or [axes, n].
            facts: of that layer.

        Returns:
            ``index`` [m] of the rows that go on, which of them stand for merged tokens [m] (bool), and their hidden
            states [m, c].
        """
        rows, n = self.rows, hidden.shape[0]
        keys = facts.all_heads(key, facts.kv_heads).transpose(0, 1)[None]

        def attention(number: int, text: TextRows, column: Tensor) -> Attention:
            at = text.column[0]
            return Attention(
                query=facts.all_heads(query[at], facts.heads).transpose(0, 1)[None],
                key=keys,
                mask=lambda row: ops.causal_rows(text.column.gather(1, row), n, 0),
                key_column=column,
                query_position=position[..., at].unsqueeze(-2),
                key_position=position.unsqueeze(-2),
                inv_freq=facts.inv_freq,
                rotary_axis=facts.rotary_axis,
                scale=facts.scale,
                softcap=facts.softcap,
            )

        shown = StageFacts(
            index=index,
            layer=self.layers[index],
            hidden=hidden[None],
            planned=[counts[index] for counts in self.counts],
            prunable=[torch.ones(1, dtype=torch.bool, device=hidden.device)] * len(self.sizes),
            attention=attention,
            rater_counts=self.rater_counts,
            in_front=self.in_front,
        )
        others = [self.prompt.length - self.prompt.schedule.visual]
        step = run_stage(self.prompt.method, rows, self.sizes, self._text(), others, shown)
        self.rows, self.sizes = step.rows, step.sizes
        source = self.rows.source[0]
        self.kept.append(source)
        # Rows keep their order, so that their old places follow from what they stand for.
        old = torch.searchsorted(rows.source[0].contiguous(), source.contiguous())
        return old, (self.rows.visual & (self.rows.origin < 0))[0], step.hidden[0]

    def _text(self) -> tuple[TextRows, ...]:
        return TextRows.of(self.rows, self.sizes)


def _over(of_prompt: Tensor, like: Tensor) -> Tensor:
    """What is known of a prompt's rows [1, p] for all rows of its step; what follows the prompt is nothing."""
    more = like.shape[1] - of_prompt.shape[1]
    nothing = 0 if of_prompt.dtype == torch.bool else -1
    return torch.nn.functional.pad(of_prompt, (0, more), value=nothing).to(like.device, non_blocking=True)
