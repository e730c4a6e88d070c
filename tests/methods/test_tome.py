"""ToMe: pairs that are alike become one until the budget is met."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsesight import SparseSightError, ToMe
from sparsesight.core.budget import BEFORE, StageSizes
from sparsesight.core.rows import advance
from tests.ops.test_matching import soft_matching

from .stages import Sample, build


@pytest.mark.parametrize("seed", range(4))
def test_as_in_loops(seed: int) -> None:
    sample = Sample.random(seed, 3, 50, 4)
    method = ToMe((11,))
    selection = method.select(build(method, [sample])[1])
    x = sample.hidden[sample.at_visual]
    groups = soft_matching(x, 11)
    assert not selection.keep.any() and selection.recycled is not None and selection.merge is not None
    assert selection.recycled[0].tolist() == list(range(50))
    assert [(selection.merge.assign[0] == q).nonzero()[:, 0].tolist() for q in range(11)] == groups
    torch.testing.assert_close(selection.merge.tokens[0], torch.stack([x[g].mean(0) for g in groups]))


def test_a_picture_of_four_colours_becomes_four_tokens() -> None:
    """Sixteen tokens of each: whatever is merged is equal, and nothing is lost."""
    sample = Sample.random(0, 2, 64, 3)
    colour = torch.arange(64) // 16
    sample.hidden[sample.at_visual] = torch.eye(6)[colour] * 3
    method = ToMe((4,))
    rows, stage = build(method, [sample])
    selection = method.select(stage)
    after, hidden = advance(rows, [(stage, selection)], 2 + 4 + 3, False)
    torch.testing.assert_close(hidden[0, 2:6], torch.eye(6)[:4] * 3)
    assert after.origin[0].tolist() == [-1] * 9
    standing = after.source[0, 2:6] - 2
    assert torch.equal(colour[standing], torch.arange(4))


def test_counts() -> None:
    assert ToMe(64).plan(64, 32, (BEFORE,)).stages == () == ToMe(1.0).plan(9, 32, (BEFORE,)).stages
    schedule = ToMe(0.25).plan(100, 32, (BEFORE,))
    (stage,) = schedule.stages
    assert (stage.keep, stage.recycled, stage.merged) == (0, 100, 25) and schedule.equal_tokens == 25


def test_frames_are_refused() -> None:
    with pytest.raises(
        SparseSightError, match="per_frame=True: 'tome' merges what is alike over all pictures"
    ):
        ToMe(64, per_frame=True)


def test_what_it_costs() -> None:
    """Eight to three: rounds of 4 x 4 and 2 x 2 pairs, compared and added up, then one average."""
    sizes = StageSizes(
        index=0, tokens_in=8, keep=0, recycled=8, merged=3, text=4, keys=12, width=16, hidden=10
    )
    assert ToMe((3,)).overhead(sizes) == (2 * 16 + 2 * 4 + 8 * 3) * 10
    nothing = replace(
        sizes, keep=sizes.tokens_in, recycled=0, merged=0
    )  # no text judges: it must come to an end
    assert ToMe((3,)).overhead(nothing) == 0
