"""What a method keeps of its scores: exact counts, stable ties, a batch = each sample alone."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from sparsesight import METHODS, Method, SparseVLM, SparseVLMPlus
from sparsesight.core.budget import Schedule
from sparsesight.core.stage import StageInput, planned_counts

from ..in_turn import in_turn
from ..methods.stages import NUM_LAYERS, Sample, build, normal


@dataclasses.dataclass(frozen=True)
class VisualMaskSpec(Method):
    """Scores are the first hidden feature, so that a test can choose them."""

    recycle: float = 0.0

    name: ClassVar[str] = "given"

    @property
    def recycled_fraction(self) -> float:
        return self.recycle

    def score(self, stage: StageInput) -> Tensor:
        return stage.hidden[..., 0].gather(1, stage.column)


def scored(scores: list[float], before: int = 2, after: int = 3, seed: int = 0) -> Sample:
    sample = Sample.random(seed, before, len(scores), after)
    sample.hidden[sample.at_visual, 0] = torch.tensor(scores)
    return sample


# -- plain data --------------------------------------------------------------------------------------------------
def test_planned_counts() -> None:
    """One sample recycles, one is left alone, one has no visual tokens."""
    method = SparseVLM((60, 40, 20))
    schedules = [
        method.plan(100, 32, (2, 6, 15)),
        Schedule(30, 32, ()),
        Schedule(0, 32, ()),
        method.plan(50, 32, (2, 6, 15)),
    ]
    (stages,) = planned_counts(schedules, 3, torch.device("cpu"))
    for i, counts in enumerate(stages):
        first, last = schedules[0].stages[i], schedules[3].stages[i]
        assert counts.keep.tolist() == [first.keep, 30, 0, last.keep]
        assert counts.recycle.tolist() == [first.recycled, 0, 0, last.recycled]
        assert counts.recycled == (first.recycled, 0, 0, last.recycled)
        assert counts.merged == (first.merged, 0, 0, last.merged)
        assert counts.tokens_out == (first.tokens_out, 30, 0, last.tokens_out)
    assert [c.keep[0].item() for c in stages] == [60, 40, 20]
    assert [c.merged[0] for c in stages] == [2, 1, 1]  # of 40, 22 and 21 dropped


# -- selecting ---------------------------------------------------------------------------------------------------


def test_exactly_the_counted_tokens_stay() -> None:
    scores = [0.1, 0.9, 0.5, 0.7, 0.2, 0.8]
    _, stage = build(VisualMaskSpec((3,)), [scored(scores)])
    selection = VisualMaskSpec((3,)).select(stage)
    assert selection.keep.tolist() == [[False, True, False, True, False, True]]
    assert selection.recycled is None and selection.merge is None
    torch.testing.assert_close(selection.score, torch.tensor([scores]))


def test_ties_go_to_the_earlier_token() -> None:
    """Alone, and behind padding."""
    tied, longer = scored([1.0, 2.0, 1.0, 1.0, 1.0]), scored([0.0] * 9)
    for samples in ([tied], [longer, tied]):
        _, stage = build(VisualMaskSpec((3,)), samples)
        keep = VisualMaskSpec((3,)).select(stage).keep
        assert keep[-1, -5:].tolist() == [True, True, True, False, False]
        assert keep.sum(1).tolist() == [3] * len(samples)


def test_not_a_number_is_kept_last() -> None:
    _, stage = build(VisualMaskSpec((2,)), [scored([math.nan, 0.0, math.nan, -5.0])])
    assert VisualMaskSpec((2,)).select(stage).keep.tolist() == [[False, True, False, True]]


def test_the_best_of_the_dropped_are_recycled() -> None:
    """Forty dropped of fifty: thirteen are merged into two, best score first."""
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    sample = scored([float(x) for x in order])
    method = VisualMaskSpec((10,), recycle=0.3)
    _, stage = build(method, [sample])
    selection = method.select(stage)
    best = order.argsort(descending=True)
    assert sorted(best[:10].tolist()) == selection.keep[0].nonzero()[:, 0].tolist()
    assert selection.recycled is not None and selection.merge is not None
    assert selection.recycled[0].tolist() == best[10:23].tolist()
    assert selection.counts.tokens_out == (12,) and selection.merge.tokens.shape == (1, 2, 6)
    recycled = sample.hidden[sample.at_visual][best[10:23]]
    for q in range(2):
        members = recycled[selection.merge.assign[0] == q]
        torch.testing.assert_close(selection.merge.tokens[0, q], members.sum(0) / (len(members) + 1e-6))


def test_selecting_keeps_no_graph_but_merging_does() -> None:
    sample = scored([float(x) for x in range(30)])
    method = VisualMaskSpec((10,), recycle=0.3)
    _, stage = build(method, [sample])
    stage = dataclasses.replace(stage, hidden=stage.hidden.clone().requires_grad_())
    selection = method.select(stage)
    assert not selection.score.requires_grad
    assert selection.merge is not None and selection.merge.tokens.requires_grad


BATCH = [(3, 40, 9), (5, 25, 4), (0, 61, 1), (4, 7, 0), (2, 0, 6), (1, 40, 12)]
METHODS_IN_BATCHES: list[Method] = [
    *(kind((20, 9, 4)[: len(kind.depths)]) for kind in METHODS.values()),
    *(kind(0.5) for kind in METHODS.values()),
    SparseVLM((20, 9, 4), positions="compact", always_drop=True),
    SparseVLM(1.0, adaptive=True, scale=2.5),
    SparseVLMPlus((20, 9, 4), heads=2, gravity_floor=None),
]


@pytest.mark.parametrize(
    ("method", "poison", "index"), in_turn(METHODS_IN_BATCHES, [math.nan, 1e30], [0, 2]), ids=repr
)
def test_a_batch_keeps_what_each_sample_keeps_alone(method: Method, poison: float, index: int) -> None:
    """Different sizes, one sample without text to judge and one without a picture; those two keep what they have."""
    samples = [Sample.random(10 + i, *sizes) for i, sizes in enumerate(BATCH)]
    layers = method.stage_layers(NUM_LAYERS)
    index = min(index, len(layers) - 1)
    _, together = build(method, samples, layers, index, poison)
    selection = method.select(together)
    for i, sample in enumerate(samples):
        v, counts = sample.visual, selection.counts
        keep = selection.keep[i][selection.keep.shape[1] - v :]
        assert selection.keep[i].sum() == keep.sum() == counts.keep[i]
        assert counts.tokens_out[i] == counts.keep[i] + counts.merged[i]
        if not (sample.visual and sample.after):
            assert keep.all() and counts.merged[i] == 0 and counts.tokens_out[i] == v
            continue
        _, single = build(method, [sample], layers, index, poison)
        alone = method.select(single)
        assert keep.tolist() == alone.keep[0].tolist()
        assert (counts.recycled[i], counts.merged[i]) == (alone.counts.recycled[0], alone.counts.merged[0])
        torch.testing.assert_close(selection.score[i][-v:], alone.score[0])
        if alone.merge is not None:
            assert selection.recycled is not None and selection.merge is not None
            assert alone.recycled is not None
            m, q = counts.recycled[i], counts.merged[i]
            first = selection.keep.shape[1] - v
            assert (selection.recycled[i, :m] - first).tolist() == alone.recycled[0].tolist()
            assert selection.merge.assign[i, :m].tolist() == alone.merge.assign[0].tolist()
            torch.testing.assert_close(selection.merge.tokens[i, :q], alone.merge.tokens[0])


def test_raters_by_default_are_those_of_the_paper() -> None:
    visual, text = normal(0, 1, 9, 8), normal(1, 1, 5, 8)
    flags = torch.ones(1, 9, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    for kind in (kind for kind in METHODS.values() if kind.select_raters is Method.select_raters):
        chosen = kind().select_raters(visual, text, *flags)
        share = (visual @ text.transpose(1, 2)).softmax(-1).mean(1)
        assert torch.equal(chosen, share > share.mean())
