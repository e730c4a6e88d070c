"""Segments of clips and their anchors: plain loops, ties, padding, batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsesight import ops

from .test_diversity import normal


def cut(features: list[list[float]], least: int, threshold: float) -> list[int]:
    """Segments of frames of two equal tokens."""
    x = torch.tensor(features).repeat_interleave(2, 0)[None]
    frame = (torch.arange(x.shape[1]) // 2)[None]
    valid = torch.ones_like(frame, dtype=torch.bool)
    return ops.frame_segments(x, frame, valid, least, threshold)[0, ::2].tolist()


def test_segments_by_hand() -> None:
    """Cosines 1, 0, 0.8, 1: two cuts below 0.9; of the smallest one, one."""
    frames = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.6, 0.8], [3.0, 4.0]]
    assert cut(frames, 1, 0.9) == [0, 0, 1, 2, 2]
    assert cut(frames, 2, -1.0) == [0, 0, 1, 1, 1]
    assert cut(frames, 4, 0.9) == [0, 1, 2, 3, 3]  # of the equal cosines, the earlier
    assert cut(frames, 9, -1.0) == [0, 1, 2, 3, 4]


def anchors(x: Tensor, frame: Tensor, clusters: int) -> list[int]:
    """The densest peaks of one frame in plain loops."""
    unit, own = normalize(x.double(), dim=-1), frame.tolist()
    found = []
    for f in sorted(set(own)):
        of = [i for i, g in enumerate(own) if g == f]
        d = {(i, j): float((unit[i] - unit[j]).norm()) for i in of for j in of if i != j}
        rho = {i: -sum(sorted(d[i, j] ** 2 for j in of if j != i)[:4]) / min(4, len(of) - 1) for i in of}
        score = {}
        for i in of:
            denser = [d[i, j] for j in of if j != i and rho[j] > rho[i]]
            score[i] = rho[i] + math.log(min(denser) if denser else max(d[i, j] for j in of if j != i))
        found += sorted(score, key=lambda i: -score[i])[:clusters]
    return sorted(found)


@pytest.mark.parametrize("seed", range(3))
def test_merging_in_plain_loops(seed: int) -> None:
    """Six frames of nine tokens in two segments; with an interval of two, frames 0 and 2, 4 give two anchors each."""
    x, frame = normal(seed, 54, 8), torch.arange(54) // 9
    segment = (frame >= 4).long()
    merge = ops.anchor_merge(x[None], frame[None], segment[None], [54], [6], 2, 0.6)
    giving = torch.isin(frame, torch.tensor([0, 2, 4]))
    index = giving.nonzero()[:, 0]
    expected = index[anchors(x[giving], frame[giving], 2)].tolist()
    assert merge.centre[0].tolist() == expected and merge.exists.all()
    unit = normalize(x, dim=-1)
    for place, anchor in enumerate(expected):
        rivals = [a for a in expected if frame[a] == frame[anchor]]
        others = [i for i in range(54) if i not in expected and segment[i] == segment[anchor]]
        mine = [i for i in others if max(rivals, key=lambda a: float(unit[i] @ unit[a])) == anchor]
        token = x[anchor] if not mine else 0.6 * x[anchor] + 0.4 * x[mine].mean(0)
        torch.testing.assert_close(merge.tokens[0, place], token)
    assert merge.assign[0, expected].tolist() == list(range(6))


def test_many_anchors_come_from_other_frames_too() -> None:
    x, frame = normal(0, 1, 24, 8), (torch.arange(24) // 6)[None]
    merge = ops.anchor_merge(x, frame, torch.zeros_like(frame), [24], [8], 4, 0.6)
    assert frame[0, merge.centre[0]].bincount()[0] == 6 and merge.centre[0].unique().numel() == 8


def test_equal_tokens_and_a_segment_without_anchors() -> None:
    """Of equal tokens the first is an anchor, and a segment that gets none joins the others."""
    x = torch.eye(4)[[0, 0, 0, 1, 1, 1, 2, 2, 2]][None]
    frame = torch.zeros(1, 9, dtype=torch.long)
    merge = ops.anchor_merge(x, frame, frame, [9], [3], 4, 0.6)
    assert merge.centre[0].tolist() == [0, 3, 6] and merge.assign[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    two = torch.tensor([[0] * 6 + [1] * 3])
    merge = ops.anchor_merge(x, two, two, [9], [1], 4, 0.5)
    assert merge.centre.tolist() == [[0]]
    torch.testing.assert_close(
        merge.tokens[0, 0], torch.tensor([0.5 + 0.5 * 2 / 8, 0.5 * 3 / 8, 0.5 * 3 / 8, 0])
    )


def test_any_batch() -> None:
    sizes, clusters = [40, 23, 5], [9, 4, 2]
    x, frame = normal(3, 3, 40, 8), (torch.arange(40) // 8).repeat(3, 1)
    valid = torch.arange(40) < torch.tensor(sizes)[:, None]
    x[~valid] = math.nan
    segment = ops.frame_segments(x, frame, valid, 2, 0.5)
    together = ops.anchor_merge(x, frame, segment, sizes, clusters, 2, 0.6)
    for i, (n, q) in enumerate(zip(sizes, clusters, strict=True)):
        own = ops.frame_segments(x[i : i + 1, :n], frame[i : i + 1, :n], valid[i : i + 1, :n], 2, 0.5)
        assert torch.equal(own[0], segment[i, :n])
        alone = ops.anchor_merge(x[i : i + 1, :n], frame[i : i + 1, :n], own, [n], [q], 2, 0.6)
        assert torch.equal(alone.centre[0], together.centre[i, :q])
        assert torch.equal(alone.assign[0], together.assign[i, :n])
        torch.testing.assert_close(alone.tokens[0], together.tokens[i, :q])
