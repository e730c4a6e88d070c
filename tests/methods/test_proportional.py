"""How many tokens each kept token stands for, worked by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from sparsesight import Halves, Method, SparseVLM, ToMe, VisionZip
from sparsesight.core.rows import advance
from sparsesight.methods import CDPruner, Compose, make_method, parse
from sparsesight.ops import nearest_kept

from .stages import Sample, build


def after(method: Method, sample: Sample, before: Tensor | None = None, index: int = 0) -> dict[int, float]:
    """Multiplicity of every remaining visual row, by its place in the picture."""
    rows, stage = build(method, [sample], index=index)
    if before is not None:
        wide = torch.ones(1, sample.length)
        wide[0, sample.at_visual] = before
        rows = dataclasses.replace(rows, multiplicity=wide)
        stage = dataclasses.replace(stage, multiplicity=before[None])
    selection = method.select(stage)
    selection = selection._replace(multiplicity=method.multiplicity(stage, selection))
    length = sample.before + selection.counts.tokens_out[0] + sample.after
    left, _ = advance(rows, [(stage, selection)], length, False)
    if left.multiplicity is None:
        return {}
    assert (left.multiplicity[~left.visual] == 1).all(), "text counts once"
    place = left.source[left.visual] - sample.before
    return dict(zip(place.tolist(), left.multiplicity[left.visual].tolist(), strict=True))


def four_colours() -> Sample:
    """3, 5, 2 and 6 tokens of each."""
    sample = Sample.random(0, 2, 16, 3)
    sample.hidden[sample.at_visual] = torch.eye(6)[[0] * 3 + [1] * 5 + [2] * 2 + [3] * 6]
    return sample


def test_a_merged_token_stands_for_its_members() -> None:
    method = ToMe((4,), proportional=True)
    merge = method.select(build(method, [four_colours()])[1]).merge
    assert merge is not None
    assert list(after(method, four_colours()).values()) == merge.assign[0].bincount().tolist()
    assert after(ToMe((4,)), four_colours()) == {}


def test_a_dropped_token_counts_for_the_nearest_kept_one() -> None:
    assert after(Halves((4, 2), asked=0.0, proportional=True), four_colours()) == {0: 3, 3: 5, 8: 2, 10: 6}
    assert after(Halves((4, 2), asked=0.0), four_colours()) == {}


def test_later_stages_add_up() -> None:
    """What a token stood for goes to the one that stands for it."""
    before = torch.arange(1.0, 17.0)
    counted = after(Halves((16, 4), asked=0.0, proportional=True), four_colours(), before, index=1)
    assert counted == {0: 1 + 2 + 3, 3: 4 + 5 + 6 + 7 + 8, 8: 9 + 10, 10: 11 + 12 + 13 + 14 + 15 + 16}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_counted_twice(seed: int) -> None:
    """ToMe, VisionZip and halves count every token once; SparseVLM counts what it kept and merged."""
    sample = Sample.random(seed, 3, 40, 5)
    before = torch.randint(1, 9, (40,), generator=torch.Generator().manual_seed(seed)).float()
    for method in (
        ToMe(11, proportional=True),
        VisionZip(11, proportional=True),
        Halves(11, proportional=True),
    ):
        assert sum(after(method, sample, before).values()) == before.sum(), method
    sparsevlm = SparseVLM((20, 9, 4), proportional=True)
    _, stage = build(sparsevlm, [sample])
    selection = sparsevlm.select(stage)
    (recycled,) = selection.counts.recycled
    assert recycled and sum(after(sparsevlm, sample).values()) == 20 + recycled


def test_a_batch_counts_what_each_sample_counts_alone() -> None:
    samples = [Sample.random(seed, *size) for seed, size in enumerate([(3, 40, 6), (0, 17, 1), (5, 64, 2)])]
    for method in (
        Halves(0.4, proportional=True),
        ToMe(0.4, proportional=True),
        SparseVLM(0.4, proportional=True),
        VisionZip(0.4, proportional=True),
    ):
        _, stage = build(method, samples)
        together = method.multiplicity(stage, method.select(stage))
        assert together is not None
        for i, sample in enumerate(samples):
            _, own = build(method, [sample])
            alone = method.multiplicity(own, method.select(own))
            assert alone is not None
            assert torch.equal(together[i, -sample.visual :], alone[0])


def test_composition() -> None:
    """A part that does not count leaves what there is; one weighted part makes the whole weighted."""
    method = parse("tome(retain=20, proportional=True) > narrow(retain=14)")
    assert method.weights_keys and not Compose(CDPruner(20), Halves(9, (3, 9))).weights_keys
    assert make_method("halves", proportional=True).weights_keys and not Halves().weights_keys
    sample, before = Sample.random(1, 3, 30, 5), torch.arange(1.0, 31.0)
    counted = after(method, sample, before, index=1)
    assert counted and all(before[place] == count for place, count in counted.items())


def test_text_in_front_sees_a_picture_as_often_as_it_counts() -> None:
    """Where the mask is lifted, the weight of the keys stays."""
    sample = Sample.random(0, 2, 5, 3)
    _, stage = build(SparseVLM((3, 2, 1)), [sample, sample])
    times = torch.tensor([[1.0, 4, 1, 2, 1], [3, 1, 1, 1, 1]])
    hidden = torch.full((2, 1, 3, 10), torch.finfo(torch.float32).min)
    at = dataclasses.replace(stage.attention, mask=hidden)
    lifted = at.seeing(torch.tensor([True, False]), stage.visual, times).allowed()
    assert torch.equal(lifted[0, 0, :, 2:7], times[0].log().expand(3, -1))
    assert torch.equal(lifted[1], hidden[1]) and (lifted[0, :, :, 7:] < -1e30).all()


def test_nearest_kept() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.5], [2.0, 2.0]]])
    keep = torch.tensor([[True, False, True, False, False]])
    assert nearest_kept(x, torch.ones_like(keep), keep, 2).tolist() == [[0, 0, 2, 0, 0]]  # the last is a tie
