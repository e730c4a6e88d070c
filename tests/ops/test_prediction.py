"""What is left out can be filled in from what is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsesight.ops import predicted_units


def drawing(seed: int, height: int = 9, width: int = 12) -> Tensor:
    """Flat areas of few colours, and some noise."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.zeros(height, width, 2)
    for _ in range(4):
        top, left = (int(torch.randint(size, (), generator=random)) for size in (height, width))
        picture[top : top + 4, left : left + 5] = torch.randint(3, (2,), generator=random).float()
    noisy = torch.rand(height, width, generator=random) < 0.1
    return torch.where(noisy[..., None], torch.rand(height, width, 2, generator=random), picture)


def decoded(units: Tensor, found: Tensor) -> Tensor:
    """The picture as somebody has it who sees the other units alone, one after the other."""
    known = torch.full_like(units, float("nan"))
    for i in range(units.shape[0]):
        for j in range(units.shape[1]):
            if not found[i, j]:
                known[i, j] = units[i, j]
            elif not i or (j and torch.equal(known[i - 1, j - 1], known[i - 1, j])):
                known[i, j] = known[i, j - 1]  # nothing changes along the row above
            elif not j or torch.equal(known[i - 1, j - 1], known[i, j - 1]):
                known[i, j] = known[i - 1, j]  # nothing changes along the column to the left
            else:
                known[i, j] = known[i, j - 1]
    return known


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_the_picture_follows_from_what_is_left(threshold: float) -> None:
    for seed in range(5):
        units = drawing(seed)
        found = predicted_units(units[None], threshold)[0]
        assert found.any() and not found.all()
        assert ((decoded(units, found) - units).abs() <= threshold).all()


def test_flat_areas_and_ramps() -> None:
    flat = torch.ones(1, 4, 6, 3)
    assert predicted_units(flat).sum() == 4 * 6 - 1, "one unit stands for a blank page"
    ramp = torch.arange(8.0).view(1, 1, 8, 1) * 0.1
    assert not predicted_units(ramp).any()
    assert predicted_units(ramp, 0.15)[0, 0].tolist() == [False, True] * 4, "small steps do not add up"
    columns = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 4, 6, 1)
    assert torch.equal(predicted_units(columns)[0], torch.arange(4)[:, None].expand(4, 6) > 0)


def test_pictures_of_a_batch_are_alone() -> None:
    units = torch.stack([drawing(seed) for seed in range(3)])
    together = predicted_units(units, 0.1)
    assert all(torch.equal(together[i], predicted_units(units[i : i + 1], 0.1)[0]) for i in range(3))
