"""Assigns visual tokens to frames: those of a clip, or a picture, which is one frame.

A frame begins where a run of placeholder ids begins. If one run holds a whole clip, its frames are separated by the
caller, by the grids that come with the prompt, by multi-axis positions, whose raster of rows and columns starts again,
or by the number of tokens per frame in the family's config. A clip that none of these separates counts as one frame,
and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...core.record import StageRecord
from ...families import family_of
from ...report import Clip


@dataclass(frozen=True)
class FrameRule:
    """What a family says about its frames.

    Attributes:
        video_ids: placeholder ids of clips.
        run_is_frame: whether each run of them is one frame.
        tokens: of one frame; 0 if they vary.
        merge: patches along one side that become one token, where grids count patches.
        by_frame: whether the encoder gives features by the frame.
    """

    video_ids: tuple[int, ...] = ()
    run_is_frame: bool = False
    tokens: int = 0
    merge: int = 1
    by_frame: bool = False

    @classmethod
    def of(cls, config: Any) -> FrameRule:
        """The rule of a family, from its config."""
        family = family_of(config)
        found = (getattr(config, key, None) for key in ("video_token_id", "video_token_index"))
        merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", None) or 1
        return cls(
            video_ids=tuple(sorted({int(x) for x in found if x is not None})),
            run_is_frame=family.run_is_frame,
            tokens=family.frame_tokens(config) if family.frame_tokens is not None else 0,
            merge=int(merge),
            by_frame=family.encoded_by_frame,
        )


@dataclass(frozen=True)
class Frames:
    """The frames of a batch of prompts: boolean [b, n] over the rows of the input.

    Attributes:
        visual: which rows are visual tokens.
        video: which of them are of clips; the others are of pictures.
        clip: which of them begin a clip or a picture.
        start: which of them begin a frame.
        known: which of them are of clips or pictures whose frames are known.
    """

    visual: Tensor
    video: Tensor
    clip: Tensor
    start: Tensor
    known: Tensor

    @classmethod
    def given(cls, visual: Tensor, number: Tensor | None) -> Frames:
        """Frames of a caller: neighbouring visual tokens with another ``number`` [b, n] are of another frame."""
        run = _runs(visual, visual)
        if number is None:
            return cls(visual, torch.zeros_like(visual), run, run, torch.zeros_like(visual))
        return cls(visual, visual, run, run | (visual & (number != _before(number))), visual)

    @classmethod
    def of(cls, visual: Tensor, video: Tensor, rule: FrameRule, prompt: dict[str, Any]) -> Frames:
        """Frames by runs of ids, the family's rule and what else is in the ``prompt``; may wait for the device."""
        run = clip = start = _runs(visual, video)
        known = visual & (~video | rule.run_is_frame)
        if rule.run_is_frame:
            clip = run & ~(video & _after_video(visual, video))
        if rule.tokens:
            length, place = _within_run(run, video)
            whole = video & (length % rule.tokens <= 1)
            start = start | (whole & (place % rule.tokens == 0) & (length - place >= rule.tokens))
            known = known | whole
        clips, frames = _told(prompt, rule)
        if (clips or frames) and max(sum(clips), sum(frames)) == int(video.sum()):
            clip = (clip & ~video) | _begins(clips, video) if clips else clip
            start, known = (start | _begins(frames, video), known | video) if frames else (start, known)
        return cls(visual, video, clip, start | clip, known)

    def by_positions(self, position: Tensor) -> Frames:
        """Refined by positions [3, b, n] of time, height and width ([1, b, n]: all the same): a frame begins where
        their raster does."""
        t, h, w = position.expand(3, *self.video.shape)
        begins = (t != _before(t)) | (h < _before(h)) | ((h == _before(h)) & (w <= _before(w)))
        return replace(self, start=self.start | (begins & self.video), known=self.known | self.video)

    def divided(self, part: Tensor) -> Frames:
        """Frames end where ``part`` [b, n] changes."""
        begins = self.visual & (part != _before(part))
        return replace(self, clip=self.clip | begins, start=self.start | begins)

    def numbers(self) -> tuple[Tensor, Tensor]:
        """The frame of every row and how many tokens that has, both int64 [b, n]; text rows mean nothing."""
        frame = (self.start.cumsum(1) - 1).clamp(min=0)
        size = torch.zeros_like(frame).scatter_add(1, frame, self.visual.long())
        return frame, size.gather(1, frame)

    def describe(self, samples: Sequence[Sequence[StageRecord]]) -> list[tuple[Clip, ...]]:
        """Every sample's clips and pictures, with the tokens of each frame before and after each of its stages."""
        described = []
        flags = (self.visual, self.video, self.clip, self.start, self.known)
        for i, (visual, *per_row) in enumerate(zip(*(flag.cpu() for flag in flags), strict=True)):
            video, clip, start, known = (flag[visual] for flag in per_row)
            first = start.nonzero()[:, 0]  # of each frame, among the sample's visual tokens
            frame = start.cumsum(0) - 1
            counts = [frame, *(frame[torch.from_numpy(stage.kept)] for stage in samples[i])]
            total, *stages = (x.bincount(minlength=len(first)).tolist() for x in counts)
            bounds = [*clip[first].nonzero()[:, 0].tolist(), len(first)]
            clips = []
            for begin, end in pairwise(bounds):
                token = first[begin]
                clips.append(
                    Clip(
                        kind="video" if video[token] else "image",
                        frames=tuple(total[begin:end]),
                        kept=tuple(tuple(stage[begin:end]) for stage in stages),
                        frames_known=bool(known[token]),
                    )
                )
            described.append(tuple(clips))
        return described


def _before(x: Tensor) -> Tensor:
    """The value of the row before; the first row has its own."""
    return torch.cat((x[:, :1], x[:, :-1]), 1)


def _runs(visual: Tensor, video: Tensor) -> Tensor:
    """Which visual rows begin a run of a picture's or a clip's tokens."""
    changed = ~_before(visual) | (video != _before(video))
    changed[:, 0] = True
    return visual & changed


def _after_video(visual: Tensor, video: Tensor) -> Tensor:
    """Whether the last visual row before each row is one of a clip."""
    row = torch.arange(visual.shape[1], device=visual.device).expand(visual.shape)
    last = torch.where(visual, row, -1).cummax(1).values
    last = torch.cat((torch.full_like(last[:, :1], -1), last[:, :-1]), 1)
    return video.gather(1, last.clamp(min=0)) & (last >= 0)


def _within_run(run: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """Length of each clip row's run, and the row's place in it."""
    row = torch.arange(run.shape[1], device=run.device).expand(run.shape)
    number = run.cumsum(1).clamp(max=run.shape[1] - 1)
    length = torch.zeros_like(number).scatter_add(1, number, video.long())
    return length.gather(1, number), row - torch.where(run, row, 0).cummax(1).values


def _begins(sizes: Sequence[int], video: Tensor) -> Tensor:
    """Which clip rows begin one of the parts of ``sizes`` tokens that follow one another through the batch."""
    flags = torch.zeros(sum(sizes), dtype=torch.bool)
    flags[torch.tensor([0, *sizes[:-1]]).cumsum(0)] = True
    at = video.flatten().cumsum(0) - 1
    return flags.to(video.device)[at.clamp(min=0)].view_as(video) & video


def _told(prompt: dict[str, Any], rule: FrameRule) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of each clip and of each frame, in the order of the batch; empty where the prompt does not tell."""
    grid = prompt.get("video_grid_thw")
    if isinstance(grid, Tensor):
        sizes = [(t, h * w // rule.merge**2) for t, h, w in grid.tolist()]
        return tuple(t * size for t, size in sizes), tuple(size for t, size in sizes for _ in range(t))
    encoded = (prompt.get("mm_encoder_outputs") or {}).get("video")
    features = getattr(encoded, "pooler_output", None)  # what generate() made of the clips before the prefill
    if rule.by_frame or not isinstance(features, (list, tuple, Tensor)):
        return (), ()
    return tuple(len(x) for x in features), ()
