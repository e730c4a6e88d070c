"""Requests' rows on their way through the decoder: what a method is shown, and which rows are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.budget import Schedule
from ..core.host_count import HostCount
from ..core.record import StageRecord, StageTensors
from ..core.rows import RegionSizes, Rows
from ..core.stage import Counts, Vision, planned_counts
from ..core.step import StageFacts, TextRows, choose_raters, run_stage
from ..hf.prompt.frames import FrameRule, Frames
from ..methods import Method
from .layer_attention import Seen
from .step_plan import Prompt
from .tower import vision_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PADDED = (
    1.5  # prompts are selected together if their rows with padding are at most so many times those without
)


def together(prompts: Sequence[Prompt]) -> list[tuple[Prompt, ...]]:
    """The prompts of a step in groups that a method selects from at once: the same method, of similar length.

    Budgets may differ; with padding every sample gets what it gets alone.
    """
    groups: list[list[Prompt]] = []
    for prompt in sorted(prompts, key=lambda one: (-one.length, one.request)):
        for group in groups:
            rows = prompt.length + sum(one.length for one in group)
            fits = (len(group) + 1) * group[0].length <= PADDED * rows
            if fits and _rule(prompt) == _rule(group[0]):
                group.append(prompt)
                break
        else:
            groups.append([prompt])
    return [tuple(sorted(group, key=lambda one: one.request)) for group in groups]


def _rule(prompt: Prompt) -> Method:
    """The method, whatever its budget: counts are in the schedule."""
    method = prompt.plan.method
    assert method is not None
    return replace(method, retain=1.0) if method.one_budget else method


@dataclass
class Prefill:
    """The rows of requests in a step that prunes them, [b, n], with padding on the left."""

    prompts: tuple[Prompt, ...]
    method: Method
    layers: tuple[int, ...]  # pruning layers, -1 before the first
    row: Tensor  # int64 [b, n]: row of the step; padding has the prompt's first
    rows: Rows
    sizes: tuple[RegionSizes, ...]  # of the regions now, per region number
    others: tuple[int, ...]  # rows of each prompt that are not visual tokens of these regions
    counts: tuple[tuple[Counts, ...], ...]  # per region number and stage
    prunable: tuple[Tensor, ...]  # per region number, boolean [b]: who has such a region
    rater_counts: tuple[HostCount | None, ...] = ()  # per region number
    in_front: tuple[
        Tensor, ...
    ] = ()  # per region number, boolean [b]: whether its text stands in front of it
    clips: FrameRule = field(default_factory=FrameRule)  # how they are divided into frames
    video: Tensor | None = None  # boolean [b, n]: rows of clips
    frames: tuple[Tensor, Tensor] | None = None  # frame of each row, and its number of tokens, [b, n]
    vision: Vision | None = None  # what the method is shown of the vision tower, [b, n]
    token: Tensor | None = (
        None  # int64 [b, n]: index among the prompt's visual tokens, if stages are recorded
    )
    stages: list[StageTensors] = field(default_factory=list)  # the record of each stage so far

    @classmethod
    def of(
        cls,
        prompts: Sequence[Prompt],
        layers: tuple[int, ...],
        device: torch.device,
        clips: FrameRule | None = None,
        record: bool = False,
    ) -> Prefill:
        """Of prompts of one method; with ``record`` every stage is written down (:meth:`samples`)."""
        method = prompts[0].plan.method
        assert method is not None
        width, count = max(one.length for one in prompts), max(len(one.regions) for one in prompts)
        # Valid, visual, text, of clips; region number, row of the step, place among the region's visual tokens.
        facts = np.zeros((7, len(prompts), width), np.int64)
        facts[4] = facts[6] = -1
        for i, one in enumerate(prompts):
            at = slice(width - one.length, width)
            number = _over(one.plan.number, one, -1) - one.regions.start
            number[(number < 0) | (number >= len(one.regions))] = -1
            visual, text = _over(one.plan.visual, one, False), _over(one.plan.text, one, False)
            visual, text = visual & (number >= 0), text & (number >= 0)
            video = _over(one.plan.video, one, False) & visual
            facts[:5, i, at] = np.ones_like(visual), visual, text, video, number
            facts[5, i] = one.start + np.maximum(np.arange(-at.start, one.length), 0)
            for k in range(len(one.regions)):
                own = visual & (number == k)
                facts[6, i, at][own] = np.arange(own.sum())
        on_device = torch.from_numpy(facts).to(device, non_blocking=True)
        valid, is_visual, is_text, video = on_device[:4].bool().unbind()
        number, row, origin = on_device[4:].unbind()
        column = torch.arange(width, device=device).expand_as(row)
        rater = torch.zeros_like(is_text)
        rows = Rows(column, column, valid, is_visual, is_text, rater, origin, number if count > 1 else None)
        # Per region number and prompt; None where a prompt has no such region.
        regions = [[one.pruned[k] if k < len(one.regions) else None for one in prompts] for k in range(count)]
        sizes = tuple(
            RegionSizes(
                tuple(x.schedule.visual if x else 0 for x in each), tuple(x.text if x else 0 for x in each)
            )
            for each in regions
        )
        nothing = Schedule(0, 0, ())
        flags = np.array([[[bool(x), bool(x and x.in_front)] for x in each] for each in regions])
        told = torch.from_numpy(flags).to(device, non_blocking=True)
        token = np.zeros((len(prompts), width), np.int64)
        for i, one in enumerate(prompts):
            token[i, width - one.length :] = _over(np.cumsum(one.plan.visual) - 1, one, 0)
        return cls(
            tuple(prompts),
            method,
            layers,
            row,
            rows,
            sizes,
            tuple(one.length - sum(s.visual[i] for s in sizes) for i, one in enumerate(prompts)),
            planned_counts(
                [x.schedule if x else nothing for each in regions for x in each], len(layers), device, count
            ),
            tuple(told[k, :, 0] for k in range(count)),
            in_front=tuple(told[k, :, 1] for k in range(count)) if flags[..., 1].any() else (),
            clips=clips or FrameRule(),
            video=video,
            token=torch.from_numpy(token).to(device) if record else None,
        )

    def samples(self) -> list[list[StageRecord]]:
        """Per prompt, what each stage did with its visual tokens; those of regions of other steps are not in it.

        Waits for the device. Empty if nothing is recorded.
        """
        visual = [int(one.plan.visual.sum()) for one in self.prompts]
        return [
            list(stages) for stages in zip(*(stage.samples(visual) for stage in self.stages), strict=True)
        ]

    def rate(
        self,
        hidden: Float[Tensor, "n c"],
        position: Int[Tensor, "... n"],
        read: Float[Tensor, "n k"] | None = None,
    ) -> None:
        """Choose the raters and find the frames, from what enters the first layer and from rotary positions.

        ``read`` is what was read of the vision tower, if the method asks for it.
        """
        if read is not None:
            self.vision = vision_of(read, self.row, self.rows.visual)
        if self.method.per_frame or self.method.requires_frames:
            assert self.video is not None
            found = Frames.of(self.rows.visual, self.video, self.clips, {})
            if position.ndim == 2:
                found = found.by_positions(position[:, self.row])
            frame, tokens = found.numbers()
            self.frames = self.rows.since_region(frame), tokens
        if self.method.requires_raters:
            with torch.no_grad():
                chosen = choose_raters(self.method, self.rows, self.sizes, self._text(), hidden[self.row])
                self.rows, self.rater_counts = chosen

    def select(
        self,
        index: int,
        start: Sequence[int],
        hidden: Float[Tensor, "n c"],
        residual: Float[Tensor, "n c"] | None,
        position: Int[Tensor, "... n"],
        seen: Seen | None,
    ) -> tuple[Int[Tensor, " l"], Tensor, Tensor]:
        """Let the method choose after its ``index``-th pruning layer.

        Args:
            index: which stage.
            start: first row of each prompt among those of the step that are left.
            hidden, residual: of these rows; their sum would enter the next layer.
            position: rotary positions, [n] or [axes, n].
            seen: of the pruning layer's attention; None before the first layer.

        Returns:
            Which of these rows go on, of one prompt after another [l], which of them stand for merged tokens [l]
            (bool), and their hidden states [l, c].
        """
        rows, device = self.rows, hidden.device
        width, lengths = rows.valid.shape[1], self.lengths
        at = np.maximum(np.arange(width) - width + np.array(lengths)[:, None], 0) + np.array(start)[:, None]
        row = torch.from_numpy(at).to(device, non_blocking=True)
        shown = StageFacts(
            index=index,
            layer=self.layers[index],
            hidden=hidden[row] if residual is None else hidden[row] + residual[row],
            planned=[counts[index] for counts in self.counts],
            prunable=self.prunable,
            attention=_nothing if seen is None else seen.attention(row, rows.valid, position),
            vision=self.vision,
            frames=self.frames,
            rater_counts=self.rater_counts,
            in_front=self.in_front,
        )
        step = run_stage(self.method, rows, self.sizes, self._text(), self.others, shown)
        self.rows, self.sizes = step.rows, step.sizes
        if self.token is not None:
            most = max(len(one.plan.visual) for one in self.prompts)
            before = self.stages[-1] if self.stages else None
            self.stages.append(StageTensors.of(self.layers[index], step.chosen, self.token, most, before))
        left = self._left()
        old = self._old(rows, row)
        merged = (self.rows.visual & (self.rows.origin < 0)).flatten()[left]
        return old.flatten()[left], merged, step.hidden.flatten(0, 1)[left]

    @property
    def lengths(self) -> list[int]:
        """Rows of each prompt that are left."""
        return [n + sum(size.visual[i] for size in self.sizes) for i, n in enumerate(self.others)]

    def _left(self) -> Any:
        """Where the rows that are left lie in the flat batch; all of it where there is no padding."""
        width, lengths = self.rows.valid.shape[1], self.lengths
        if min(lengths) == width:
            return slice(None)
        at = np.concatenate([np.arange((i + 1) * width - n, (i + 1) * width) for i, n in enumerate(lengths)])
        return torch.from_numpy(at).to(self.row.device, non_blocking=True)

    def _old(self, before: Rows, row: Tensor) -> Tensor:
        """The row of the step, before the stage, of each row that is left; padding means nothing."""
        n = self.row.shape[1]
        place = row.new_zeros(row.shape[0], n + 1)
        place.scatter_(1, before.source.masked_fill(~before.valid, n), row)
        return place.gather(1, self.rows.source)

    def _text(self) -> tuple[TextRows, ...]:
        return TextRows.of(self.rows, self.sizes)


def _nothing(number: int, text: TextRows, column: Tensor) -> None:
    """The attention before the first layer."""


def _over(of_prompt: Any, prompt: Prompt, nothing: Any) -> Any:
    """What is known of a prompt's tokens, for the rows of its step; what follows the prompt is nothing."""
    rows = of_prompt[prompt.computed : prompt.computed + prompt.length]
    return np.pad(rows, (0, prompt.length - len(rows)), constant_values=nothing)
