"""FastVID: its merging is checked in tests/ops/test_segments.py; here frames, budgets, batches and options."""

from __future__ import annotations

import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.errors import SparseSightError
from sparsesight.methods import FastVID

from .stages import Sample, build


def frames(count: int, tokens: int) -> dict[str, torch.Tensor]:
    frame = torch.arange(count).repeat_interleave(tokens)[None]
    return {"frame": frame, "frame_tokens": torch.full_like(frame, tokens)}


def test_every_frame_keeps_what_the_tower_attends_to() -> None:
    """24 tokens: 14 by attention, two or one of each frame, and 10 anchors of the first and fifth frames."""
    sample = Sample.random(0, 2, 64, 4)
    picture = torch.randn(8, generator=torch.Generator().manual_seed(1))
    sample.hidden[2:66] = picture[:6] + 0.01 * sample.hidden[2:66]  # one shot
    method = FastVID((24,), segments=1)
    _, stage = build(method, [sample], **frames(8, 8))
    selection = method.select(stage)
    assert selection.counts.tokens_out == (24,) and selection.counts.merged == (10,)
    assert sorted(set(selection.keep[0].view(8, 8).sum(1).tolist())) == [1, 2]
    looked_at = sample.looked_at
    assert looked_at is not None
    for kept, seen in zip(selection.keep[0].view(8, 8), looked_at.view(8, 8), strict=True):
        assert seen[kept].min() >= seen[~kept].max()
    assert selection.recycled is not None and selection.merge is not None
    anchor = selection.recycled[0, selection.merge.centre[0]] // 8
    assert anchor.bincount().tolist() == [5, 0, 0, 0, 5]
    without = FastVID((24,), context=0.0)
    assert without.select(build(without, [sample], **frames(8, 8))[1]).merge is None


@pytest.mark.parametrize("method", [FastVID(0.4), FastVID(7, interval=1), FastVID(0.9, context=1.0)], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_any_batch(method: FastVID, seed: int) -> None:
    sizes = [(3, 40, 6), (0, 17, 1), (5, 64, 2), (1, 5, 9)]
    samples = [Sample.random(10 * seed + i, *size) for i, size in enumerate(sizes)]
    _, stage = build(method, samples)
    together = method.select(stage)
    for i, sample in enumerate(samples):
        alone = method.select(build(method, [sample])[1])
        assert torch.equal(together.keep[i, -sample.visual :], alone.keep[0])
        assert together.counts.merged[i] == alone.counts.merged[0]
        if alone.merge is None or together.merge is None:
            continue
        count = alone.counts.merged[0]
        torch.testing.assert_close(together.merge.tokens[i, :count], alone.merge.tokens[0, :count])


def test_settings_and_overhead() -> None:
    assert FastVID.published(0.15) == FastVID(0.15, judged_by="prompt")
    for option in ({"context": 1.5}, {"threshold": -2}, {"weight": True}, {"segments": 0}, {"interval": 2.5}):
        with pytest.raises(SparseSightError, match=f"{next(iter(option))}=.*: a (whole )?number"):
            FastVID(**option)  # type: ignore[arg-type]
    sizes = StageSizes(
        index=0, tokens_in=576, keep=38, recycled=538, merged=26, text=60, keys=640, width=4096, hidden=4096
    )
    assert FastVID().overhead(sizes) == (1 + 538 + 52) * 538 * 4096
