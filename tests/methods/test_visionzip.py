"""VisionZip: what the class token looks at stays whole, the rest is merged by its keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, VisionZip
from sparsesight.core.budget import BEFORE
from sparsesight.core.rows import advance

from .stages import NUM_LAYERS, Sample, build, normal


@pytest.mark.parametrize(("retain", "dominant", "contextual"), [(64, 54, 10), (128, 108, 20), (192, 162, 30)])
def test_published_counts(retain: int, dominant: int, contextual: int) -> None:
    method = VisionZip.published(retain)
    (stage,) = method.plan(576, 32, method.stage_layers(32)).stages
    assert (stage.layer, stage.keep, stage.merged) == (BEFORE, dominant, contextual)
    assert stage.recycled == 576 - dominant
    assert method.plan(576, 32, (BEFORE,)).equal_tokens == retain


def test_counts_without_anything_to_do() -> None:
    assert VisionZip(64).plan(64, 32, (BEFORE,)).stages == ()
    assert VisionZip(1.0).plan(576, 32, (BEFORE,)).stages == ()
    (stage,) = VisionZip((700,)).plan(576, 32, (BEFORE,)).stages
    assert (stage.keep, stage.recycled, stage.merged) == (576, 0, 0)
    (stage,) = VisionZip(1).plan(576, 32, (BEFORE,)).stages  # too few for a contextual one
    assert (stage.keep, stage.recycled, stage.merged) == (1, 0, 0)


def test_dominant_tokens_stay_and_the_rest_joins_its_like() -> None:
    """Twelve tokens in two kinds by their keys; two dominant ones; one contextual token of each kind."""
    sample = Sample.random(0, 2, 12, 3)
    sample.looked_at = torch.full((12,), 0.01)
    sample.looked_at[[4, 9]] = 0.4
    kind = torch.tensor([0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0])
    sample.patch_key = torch.eye(5)[kind] + 0.1 * normal(1, 12, 5)
    # Of the ten that are left (all but 4 and 9) the targets are number 0 and 5: tokens 0 and 6, one of each kind.
    method = VisionZip((4,), contextual=0.5)
    rows, stage = build(method, [sample])
    selection = method.select(stage)
    assert selection.keep[0].nonzero()[:, 0].tolist() == [4, 9]
    assert selection.merge is not None and selection.recycled is not None
    features = sample.hidden[sample.at_visual]
    rest = torch.tensor([i not in (4, 9) for i in range(12)])
    means = torch.stack([features[rest & (kind == k)].mean(0) for k in (0, 1)])
    torch.testing.assert_close(selection.merge.tokens[0], means)
    # Where they stand: at their targets, among the kept ones, whose rows are what they were.
    after, hidden = advance(rows, [(stage, selection)], 2 + 4 + 3, False)
    assert after.source[0].tolist() == [0, 1, 2 + 0, 2 + 4, 2 + 6, 2 + 9, 14, 15, 16]
    assert after.origin[0].tolist() == [-1, -1, -1, 4, -1, 9, -1, -1, -1]
    torch.testing.assert_close(hidden[0, [2, 4]], means)
    assert torch.equal(hidden[0, [3, 5]], features[[4, 9]])
    # As published they stand behind.
    after, hidden = advance(rows, [(stage, selection)], 2 + 4 + 3, True)
    assert after.origin[0].tolist() == [-1, -1, 4, 9, -1, -1, -1, -1, -1]
    torch.testing.assert_close(hidden[0, 4:6], means)


def test_the_released_sum() -> None:
    """A target plus the mean of the others: twice as long as the tokens where they are equal."""
    sample = Sample.random(0, 1, 20, 2)
    sample.hidden[sample.at_visual] = torch.ones(20, sample.hidden.shape[1])
    for add, length in ((False, 1.0), (True, 2.0)):
        method = VisionZip((6,), contextual=0.5, add=add)
        merge = method.select(build(method, [sample])[1]).merge
        assert merge is not None
        torch.testing.assert_close(merge.tokens[0], torch.full((3, sample.hidden.shape[1]), length))


def test_tokens_without_a_patch_are_never_dominant() -> None:
    sample = Sample.random(3, 0, 30, 2)
    assert sample.looked_at is not None
    sample.looked_at[::6] = -math.inf
    method = VisionZip((25,), contextual=0.2)
    kept = method.select(build(method, [sample])[1]).keep[0]
    assert kept.sum() == 20 and not kept[::6].any()


@pytest.mark.parametrize("seed", range(8))
def test_every_token_is_kept_or_merged_once(seed: int) -> None:
    """Whatever comes in: the promised counts, and a mean that is kept in all over the weights."""
    visual = 10 + 7 * seed
    sample = Sample.random(seed, 2, visual, 3)
    method = VisionZip(0.4, contextual=(seed + 1) / 8)
    (planned,) = method.plan(visual, NUM_LAYERS, (BEFORE,)).stages
    selection = method.select(build(method, [sample])[1])
    assert selection.keep.sum() == planned.keep
    if not planned.merged:
        return
    assert selection.recycled is not None and selection.merge is not None
    every = sorted(selection.keep[0].nonzero()[:, 0].tolist() + selection.recycled[0].tolist())
    assert every == list(range(visual))
    weight = selection.merge.assign[0].bincount(minlength=planned.merged).float()
    assert weight.sum() == planned.recycled and (weight > 0).all()
    features = sample.hidden[sample.at_visual]
    total = (selection.merge.tokens[0] * weight[:, None]).sum(0) + features[selection.keep[0]].sum(0)
    torch.testing.assert_close(total, features.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contextual", [-0.1, 1.5, math.nan, "10", True])
def test_bad_shares(contextual: Any) -> None:
    with pytest.raises(SparseSightError, match=f"contextual={contextual!r}: a share"):
        VisionZip(contextual=contextual)
