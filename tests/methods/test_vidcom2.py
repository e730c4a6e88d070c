"""VidCom2: its rule is checked in tests/ops/test_coverage.py; here frames, budgets and batches."""

from __future__ import annotations

import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.errors import SparseSightError
from sparsesight.methods import VidCom2

from .kept_tokens import check_any_batch, kept
from .stages import Sample, normal


def clip() -> Sample:
    """Four frames of sixteen tokens, one of which shows something else."""
    sample = Sample.random(0, 2, 64, 4)
    picture = 0.1 * normal(1, 64, 6) + 1
    picture[32:48] *= -1
    sample.hidden[2:66] = picture
    return sample


def test_a_frame_of_its_own_gets_more_unless_shares_are_equal() -> None:
    frames = {"frame": (torch.arange(64) // 16)[None], "frame_tokens": torch.full((1, 64), 16)}

    def counts(method: VidCom2) -> list[int]:
        return (
            torch.tensor(kept(method, clip(), **frames)[0]).div(16, rounding_mode="floor").bincount().tolist()
        )

    assert counts(VidCom2((24,)))[2] > 8 and sum(counts(VidCom2((24,)))) == 24
    assert counts(VidCom2((24,), per_frame=True)) == [6, 6, 6, 6]


@pytest.mark.parametrize("method", [VidCom2(0.4), VidCom2(7, temperature=1.0)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_any_batch(method: VidCom2, seed: int) -> None:
    check_any_batch(method, seed)


def test_settings_and_overhead() -> None:
    assert VidCom2.published(0.15) == VidCom2(0.15, positions="compact", judged_by="prompt")
    with pytest.raises(SparseSightError, match="temperature=0"):
        VidCom2(temperature=0)
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    assert VidCom2().overhead(sizes) == 5 * 576 * 4096
