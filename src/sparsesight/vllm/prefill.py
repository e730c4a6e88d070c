"""One request's rows on their way through the decoder: what a method is shown, and which rows are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..core.host_count import HostCount
from ..core.rows import RegionSizes, Rows
from ..core.stage import Attention, Counts, planned_counts
from ..core.step import StageFacts, TextRows, choose_raters, run_stage
from ..hf.prompt.frames import FrameRule, Frames
from ..methods import Method
from .step_plan import Prompt

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
    """The rows of a single request, [1, n] everywhere, in a step that prunes it; it never holds filler."""

    prompt: Prompt
    layers: tuple[int, ...]  # pruning layers, -1 before the first
    rows: Rows
    sizes: tuple[RegionSizes, ...]  # of the regions now
    counts: tuple[tuple[Counts, ...], ...]  # per region number and stage
    rater_counts: tuple[HostCount | None, ...] = ()  # per region number
    in_front: tuple[Tensor, ...] = ()  # per region, boolean [1]: whether its text stands in front of it
    clips: FrameRule = field(default_factory=FrameRule)  # how they are divided into frames
    video: Tensor | None = None  # boolean [1, n]: rows of clips, if the method goes by frames
    frames: tuple[Tensor, Tensor] | None = None  # frame of each row, and its number of tokens, [1, n]
    kept: list[Tensor] = field(default_factory=list)  # per stage: rows of the step that are left

    @classmethod
    def of(
        cls, prompt: Prompt, layers: tuple[int, ...], device: torch.device, clips: FrameRule | None = None
    ) -> Prefill:
        plan, now = prompt.plan, prompt.regions
        number = _over(plan.number, prompt, -1) - now.start
        own = (number >= 0) & (number < len(now))
        number = np.where(own, number, -1)
        visual, text = _over(plan.visual, prompt, False) & own, _over(plan.text, prompt, False) & own
        video = _over(plan.video, prompt, False) & visual
        on_device = torch.from_numpy(np.stack((visual, text, number, video))).to(device, non_blocking=True)
        is_visual = on_device[0][None].bool()
        rows = Rows.start(torch.ones_like(is_visual), is_visual)
        rows = rows.divided(on_device[1][None].bool(), on_device[2][None] if len(now) > 1 else None)
        regions = prompt.pruned
        in_front: tuple[Tensor, ...] = ()
        if any(region.in_front for region in regions):
            in_front = tuple(
                torch.tensor([region.in_front]).to(device, non_blocking=True) for region in regions
            )
        return cls(
            prompt,
            layers,
            rows,
            tuple(RegionSizes((region.schedule.visual,), (region.text,)) for region in regions),
            planned_counts([region.schedule for region in regions], len(layers), device, len(regions)),
            in_front=in_front,
            clips=clips or FrameRule(),
            video=on_device[3][None].bool(),
        )

    @property
    def method(self) -> Method:
        """What decides."""
        assert self.prompt.plan.method is not None
        return self.prompt.plan.method

    def rate(self, hidden: Float[Tensor, "n c"], position: Int[Tensor, "... n"]) -> None:
        """Choose the raters and find the frames, from what enters the first layer and from rotary positions."""
        if self.method.per_frame or self.method.requires_frames:
            assert self.video is not None
            found = Frames.of(self.rows.visual, self.video, self.clips, {})
            if position.ndim == 2:
                found = found.by_positions(position[:, None])
            frame, tokens = found.numbers()
            self.frames = self.rows.since_region(frame), tokens
        if self.method.requires_raters:
            with torch.no_grad():
                chosen = choose_raters(self.method, self.rows, self.sizes, self._text(), hidden[None])
                self.rows, self.rater_counts = chosen

    def select(
        self,
        index: int,
        hidden: Float[Tensor, "n c"],
        query: Float[Tensor, "n hd"] | None,
        key: Float[Tensor, "n gd"] | None,
        position: Int[Tensor, "... n"],
        facts: LayerFacts | None,
        cached: Float[Tensor, "m gd"] | None = None,
    ) -> tuple[Int[Tensor, " l"], Tensor, Tensor]:
        """Let the method choose after its ``index``-th pruning layer.

        Args:
            index: which stage.
            hidden: what would enter the next layer.
            query, key: of the pruning layer, after the rotary embedding; this rank's heads side by side. None before
                the first layer.
            position: rotary positions, [n] or [axes, n].
            facts: of that layer, if there is one.
            cached: keys that the layer holds of tokens that were computed in earlier steps.

        Returns:
            ``index`` [l] of the rows that go on, which of them stand for merged tokens [l] (bool), and their hidden
            states [l, c].
        """
        rows, n = self.rows, hidden.shape[0]
        shown = StageFacts(
            index=index,
            layer=self.layers[index],
            hidden=hidden[None],
            planned=[counts[index] for counts in self.counts],
            prunable=[torch.ones(1, dtype=torch.bool, device=hidden.device)] * len(self.sizes),
            attention=_attention(query, key, position, facts, cached),
            frames=self.frames,
            rater_counts=self.rater_counts,
            in_front=self.in_front,
        )
        others = [n - sum(size.visual[0] for size in self.sizes)]
        step = run_stage(self.method, rows, self.sizes, self._text(), others, shown)
        self.rows, self.sizes = step.rows, step.sizes
        source = self.rows.source[0]
        self.kept.append(source)
        # Rows keep their order, so that their old places follow from what they stand for.
        old = torch.searchsorted(rows.source[0].contiguous(), source.contiguous())
        return old, (self.rows.visual & (self.rows.origin < 0))[0], step.hidden[0]

    def _text(self) -> tuple[TextRows, ...]:
        return TextRows.of(self.rows, self.sizes)


def _attention(
    query: Tensor | None,
    key: Tensor | None,
    position: Tensor,
    facts: LayerFacts | None,
    cached: Tensor | None,
) -> Callable[[int, TextRows, Tensor], Attention | None]:
    """The attention of a pruning layer as methods are shown it; see :meth:`Prefill.select`."""
    if query is None or key is None or facts is None:
        return lambda number, text, column: None
    n = key.shape[0]
    past = 0 if cached is None else len(cached)
    if cached is not None:
        key = torch.cat((cached.to(key.dtype), key))
    keys = facts.all_heads(key, facts.kv_heads).transpose(0, 1)[None]
    # Nobody asks where a cached key is: methods weigh visual tokens only, which are rows of this step.
    key_position = torch.nn.functional.pad(position, (past, 0))

    def attention(number: int, text: TextRows, column: Tensor) -> Attention:
        at = text.column[0]
        return Attention(
            query=facts.all_heads(query[at], facts.heads).transpose(0, 1)[None],
            key=keys,
            mask=lambda row: ops.causal_rows(text.column.gather(1, row), past + n, past),
            key_column=column + past,
            query_position=position[..., at].unsqueeze(-2),
            key_position=key_position.unsqueeze(-2),
            inv_freq=facts.inv_freq,
            rotary_axis=facts.rotary_axis,
            scale=facts.scale,
            softcap=facts.softcap,
        )

    return attention


def _over(of_prompt: Any, prompt: Prompt, nothing: Any) -> Any:
    """What is known of a prompt's tokens, for the rows of its step; what follows the prompt is nothing."""
    rows = of_prompt[prompt.computed : prompt.computed + prompt.length]
    return np.pad(rows, (0, prompt.length - len(rows)), constant_values=nothing)
