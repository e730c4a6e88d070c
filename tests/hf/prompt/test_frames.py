"""Frames of a batch from plain tensors: runs, what is told, positions, and the caller's numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsesight.core.record import StageRecord
from sparsesight.hf.prompt.frames import FrameRule, Frames

IMAGE, VIDEO = 4, 5
RULE = FrameRule(video_ids=(VIDEO,), merge=2)


def frames(ids: list[list[int]], rule: FrameRule = RULE, **prompt: Any) -> Frames:
    x = torch.tensor(ids)
    return Frames.of((x == IMAGE) | (x == VIDEO), x == VIDEO, rule, prompt)


def told(found: Frames) -> list[list[tuple[str, tuple[int, ...], bool]]]:
    """Kind, frames and whether they are known of every sample's clips and pictures."""
    return [
        [(c.kind, c.frames, c.frames_known) for c in sample]
        for sample in found.describe([()] * len(found.visual))
    ]


def test_runs() -> None:
    """Padding, adjacent pictures and clips, nothing at all; a clip of one run is taken whole."""
    found = frames([[0, 4, 4, 1, 4, 5, 5, 5], [0, 0, 1, 1, 1, 1, 1, 1], [4, 4, 4, 4, 1, 5, 1, 5]])
    assert told(found) == [
        [("image", (2,), True), ("image", (1,), True), ("video", (3,), False)],
        [],
        [("image", (4,), True), ("video", (1,), False), ("video", (1,), False)],
    ]
    assert found.numbers()[0][0][[1, 2, 4, 5, 6, 7]].tolist() == [0, 0, 1, 2, 2, 2]
    assert found.numbers()[1][0][[1, 2, 4, 5, 6, 7]].tolist() == [2, 2, 1, 3, 3, 3]


def test_runs_that_are_frames() -> None:
    """All runs between two pictures are one clip, unless the encoder's features say how many tokens a clip has."""
    ids = [[5, 5, 1, 5, 5, 1, 5, 5, 4, 5]]
    rule = FrameRule(video_ids=(VIDEO,), run_is_frame=True)
    whole = [("video", (2, 2, 2), True), ("image", (1,), True), ("video", (1,), True)]
    assert told(frames(ids, rule)) == [whole]
    encoded = {"video": SimpleNamespace(pooler_output=[torch.zeros(n, 3) for n in (4, 2, 1)])}
    parts = [("video", (2, 2), True), ("video", (2,), True), *whole[1:]]
    assert told(frames(ids, rule, mm_encoder_outputs=encoded)) == [parts]
    encoded["video"].pooler_output.pop()  # it speaks of other tokens than there are
    assert told(frames(ids, rule, mm_encoder_outputs=encoded)) == [whole]


def test_grids() -> None:
    """[frames, rows, columns] of patches, four of them a token, over the clips of the whole batch."""
    ids = [[5] * 6 + [1], [5, 5, 5, 5, 1, 5, 5]]
    grid = torch.tensor([[3, 2, 4], [2, 2, 4], [1, 4, 2]])
    expected = [[("video", (2, 2, 2), True)], [("video", (2, 2), True), ("video", (2,), True)]]
    assert told(frames(ids, video_grid_thw=grid)) == expected
    assert told(frames(ids, video_grid_thw=grid[:2])) == [
        [("video", (6,), False)],
        [("video", (4,), False), ("video", (2,), False)],
    ]


def test_tokens_per_frame_of_the_family() -> None:
    rule = FrameRule(video_ids=(VIDEO,), tokens=2)
    assert told(frames([[1, 5, 5, 5, 5, 5, 1, 5, 5]], rule)) == [
        [("video", (2, 3), True), ("video", (2,), True)]  # one more may end a clip
    ]
    rule = FrameRule(video_ids=(VIDEO,), tokens=4)
    assert told(frames([[5, 5, 5, 5, 5, 5, 1]], rule)) == [[("video", (6,), False)]]


def raster(shape: tuple[int, int, int], times: list[int]) -> Tensor:
    """Positions [3, n] of a clip's tokens."""
    t, h, w = (x.flatten() for x in torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
    return torch.stack((torch.tensor(times)[t], h, w))


def test_positions_whose_raster_begins_anew() -> None:
    """Also where several frames share a time, as in clips of many frames per second, and where a frame is one row,
    one column or one token."""
    for shape in ((3, 2, 2), (3, 1, 4), (3, 4, 1), (3, 1, 1), (1, 3, 4)):
        size = shape[1] * shape[2]
        for times in ([0, 1, 2], [0, 0, 0], [0, 0, 1]):
            n = shape[0] * size
            found = frames([[1] + [5] * n + [1]])
            own = raster(shape, times[: shape[0]])
            position = torch.cat((torch.full((3, 1), -1), own, torch.full((3, 1), 99)), 1)[:, None]
            assert told(found.by_positions(position)) == [[("video", (size,) * shape[0], True)]]


def test_the_callers_numbers() -> None:
    visual = torch.tensor([[False, True, True, True, True, False]])
    found = Frames.given(visual, torch.tensor([[7, 7, 7, 3, 3, 9]]))
    assert told(found) == [[("video", (2, 2), True)]]
    assert told(Frames.given(visual, None)) == [[("image", (4,), False)]]


def kept(*tokens: int) -> StageRecord:
    """Of a stage that six tokens came to."""
    every = np.arange(6)
    return StageRecord(0, np.isin(every, tokens), np.full(6, -1), every.astype(np.float32))


def test_what_stages_kept() -> None:
    found = frames([[4, 4, 1, 5, 5, 5, 5, 1]], FrameRule(video_ids=(VIDEO,), tokens=2))
    (clips,) = found.describe([[kept(0, 2, 4, 5), kept(5)]])
    assert [c.kept for c in clips] == [((1,), (0,)), ((1, 2), (0, 1))]
    assert str(clips[1]) == "clip (2 frames): 2 x2 -> 1 x1, 2 x1 -> 0 x1, 1 x1"
