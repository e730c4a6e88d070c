"""Greedy diversity: what is chosen by hand and by plain references, ties, padding, batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import ops


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def directions(*degrees: float) -> Tensor:
    """Unit vectors of the plane, scaled differently: [1, v, 2]."""
    angle = torch.tensor(degrees) * math.pi / 180
    return (torch.stack((angle.cos(), angle.sin()), -1) * torch.linspace(0.5, 3, len(degrees))[:, None])[None]


def alone(x: Tensor) -> Tensor:
    return torch.ones(1, x.shape[1], dtype=torch.bool)


def order(place: Tensor, keep: int) -> list[int]:
    """The chosen of the first sample, in the order of the choice."""
    return place[0].argsort()[:keep].tolist()


def max_min(x: Tensor, keep: int) -> list[int]:
    return order(ops.farthest_point_ranks(x, alone(x), torch.tensor([keep]), keep), keep)


def dpp(x: Tensor, quality: Tensor, keep: int) -> list[int]:
    return order(ops.greedy_dpp_map(x, quality, alone(x), torch.tensor([keep]), keep), keep)


# -- max-min --------------------------------------------------------------------------------------------------------


def test_max_min_by_hand() -> None:
    """On a circle, nearest neighbours are 10, 10, 40, 50 and 90 degrees away; then what is far from the chosen."""
    x = directions(0, 10, 50, 100, 190)
    # Of 190, 0 is 170 away and 10 is 180: 10. Then 100 (90 from both), 50 (40), 0.
    assert max_min(x, 5) == [4, 1, 3, 2, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [1, 2, 7, 40])
def test_max_min_is_the_definition(seed: int, keep: int) -> None:
    x = normal(seed, 1, 40, 12)
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1).numpy()
    distance = 1 - unit @ unit.T
    nearest = (distance + np.diag(np.full(40, np.inf))).min(1)
    chosen = [int(nearest.argmax())]
    while len(chosen) < keep:
        score = distance[:, chosen].min(1)
        score[chosen] = -1
        chosen.append(int(score.argmax()))
    assert max_min(x, keep) == chosen


def test_of_equal_tokens_one_is_chosen_the_first() -> None:
    """Five kinds, eight of each: the five first ones come before any second one, in every order of the kinds.

    They are wide: distances by a matrix product would leave equal tokens at some distance.
    """
    kinds = normal(0, 5, 1023)
    for seed in range(5):
        kind = torch.arange(40) % 5
        kind = kind[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
        first = {int((kind == k).nonzero()[0, 0]) for k in range(5)}
        for chosen in (max_min(kinds[kind][None], 40), dpp(kinds[kind][None], torch.ones(1, 40), 40)):
            assert set(chosen[:5]) == first
            assert chosen[5:] == sorted(chosen[5:])  # all others tie


# -- determinantal point process ----------------------------------------------------------------------------------


def test_dpp_by_hand() -> None:
    """Qualities 2, 1.9, 1 at 0, 10 and 90 degrees: after the best the weak one that differs, not its good neighbour.

    Gains after the first: 1.9**2 * sin(10)**2 = 0.109 against 1 * sin(90)**2 = 1.
    """
    x, quality = directions(0, 10, 90), torch.tensor([[2.0, 1.9, 1.0]])
    assert dpp(x, quality, 3) == [0, 2, 1]
    assert dpp(x, torch.tensor([[2.0, 1.9, 0.3]]), 3) == [0, 1, 2]  # 0.09 is less


@pytest.mark.parametrize("seed", range(4))
def test_dpp_enlarges_the_determinant_most(seed: int) -> None:
    x, quality = normal(seed, 1, 24, 16), normal(seed + 50, 1, 24).abs()
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1).numpy()
    q = quality[0].double().numpy()
    kernel = q[:, None] * (unit @ unit.T) * q
    chosen: list[int] = []
    for _ in range(12):
        value = [
            -np.inf if i in chosen else np.linalg.slogdet(kernel[np.ix_([*chosen, i], [*chosen, i])])[1]
            for i in range(24)
        ]
        chosen.append(int(np.argmax(value)))
    assert dpp(x, quality, 12) == chosen


def test_dpp_beyond_the_rank_goes_on_by_quality() -> None:
    """Thirty tokens of the plane: two tell everything, the rest come by quality, and nothing is NaN."""
    x, quality = normal(3, 1, 30, 2), torch.rand(1, 30, generator=torch.Generator().manual_seed(4))
    chosen = dpp(x, quality, 30)
    assert sorted(chosen) == list(range(30))
    rest = quality[0, chosen[2:]]
    assert torch.equal(rest, rest.sort(descending=True).values)


# -- least similar to pivots --------------------------------------------------------------------------------------


def test_least_similar_by_hand() -> None:
    """Pivots at 0 and 90 degrees, one token held, five of seven: the first pivot takes two, the second the others."""
    x = directions(0, 20, 80, 101, 170, 260, 300)
    held = torch.tensor([[True, False, False, False, False, False, False]])
    pivot = directions(0, 90)
    place = ops.least_similar_places(
        x, alone(x), held, pivot, torch.ones(1, 2, dtype=torch.bool), torch.tensor([5])
    )
    # From 0: 170, then 101 (260 is 100 away). From 90: 260, then 300.
    assert order(place, 5) == [0, 4, 3, 5, 6]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [2, 3, 9, 20])
def test_least_similar_is_the_definition(seed: int, keep: int) -> None:
    x, pivot = normal(seed, 1, 20, 8), normal(seed + 9, 1, 3, 8)
    held = torch.zeros(1, 20, dtype=torch.bool)
    held[0, [4, 11]] = True
    place = ops.least_similar_places(
        x, alone(x), held, pivot, torch.tensor([[True, False, True]]), torch.tensor([keep])
    )
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1)
    chosen, rest = [4, 11], keep - 2
    for p, share in ((0, (rest + 1) // 2), (2, rest // 2)):
        alike = unit @ torch.nn.functional.normalize(pivot[0, p].double(), dim=-1)
        free = [i for i in alike.argsort().tolist() if i not in chosen]
        chosen += free[:share]
    assert order(place, keep) == chosen


# -- batches --------------------------------------------------------------------------------------------------------

Choice = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def choose_max_min(x: Tensor, valid: Tensor, keep: Tensor, steps: int) -> Tensor:
    return ops.farthest_point_ranks(x, valid, keep, steps)


def choose_dpp(x: Tensor, valid: Tensor, keep: Tensor, steps: int) -> Tensor:
    return ops.greedy_dpp_map(x, x[..., 0].abs() + 0.1, valid, keep, steps)


def choose_least_similar(x: Tensor, valid: Tensor, keep: Tensor, steps: int) -> Tensor:
    held = (valid.cumsum(1) == 1) & valid & (keep > 0)[:, None]
    at = valid.int().argmax(1, keepdim=True)
    pivot = ops.gather_rows(x, torch.cat((at, at + 1, at + 2), 1))
    exists = torch.tensor([[True, True, False]]).expand(x.shape[0], -1)
    return ops.least_similar_places(x, valid, held, pivot, exists, keep)


@pytest.mark.parametrize("choice", [choose_max_min, choose_dpp, choose_least_similar])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_chooses_what_each_sample_chooses_alone(choice: Choice, seed: int) -> None:
    """All places, also those behind the chosen, agree; padding holds NaN, and samples have equal tokens."""
    sizes, keep = [9, 30, 17, 1, 4], [4, 12, 17, 1, 0]
    samples = [normal(seed * 10 + i, n, 8) for i, n in enumerate(sizes)]
    samples = [torch.cat((s[: n - n // 3], s[: n // 3])) for s, n in zip(samples, sizes, strict=True)]
    x = torch.full((5, 30, 8), math.nan)
    valid = torch.zeros(5, 30, dtype=torch.bool)
    for i, s in enumerate(samples):
        x[i, 30 - len(s) :], valid[i, 30 - len(s) :] = s, True
    if choice is choose_least_similar:  # three tokens are looked at
        x, valid, sizes, keep, samples = x[:3], valid[:3], sizes[:3], keep[:3], samples[:3]
    together = choice(x, valid, torch.tensor(keep), max(keep))
    for i, s in enumerate(samples):
        own = choice(s[None], alone(s[None]), torch.tensor([keep[i]]), keep[i])
        assert torch.equal(together[i, valid[i]], own[0])
        assert sorted(own[0].tolist()) == list(range(len(s)))
        assert (together[i, ~valid[i]] >= len(s)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_fp32(dtype: torch.dtype) -> None:
    x = (60 * normal(1, 1, 30, 64)).to(dtype)
    assert max_min(x, 9) == max_min(x.float(), 9)
    assert dpp(x, torch.ones(1, 30), 9) == dpp(x.float(), torch.ones(1, 30), 9)


# -- blocks ---------------------------------------------------------------------------------------------------------


def choose_favored(x: Tensor, valid: Tensor, keep: Tensor, steps: int) -> Tensor:
    favor = x[..., 1].masked_fill(~valid, 0).clamp(-2, 2).exp()
    return ops.greedy_gaussian_map(x, valid, keep, steps, favor, (keep // 2).tolist())


def picture(seed: int, tokens: int, width: int) -> Tensor:
    """Runs of tokens that are alike, and of some the very same: [1, tokens, width]."""
    kinds = normal(seed, 1 + tokens // 6, width).repeat_interleave(6, 0)[:tokens]
    alike = kinds + 0.4 * normal(seed + 1, tokens, width)
    return torch.where((torch.arange(tokens) % 5 == 0)[:, None], kinds, alike)[None]


@pytest.mark.parametrize("block", [1, 2, 7, 128])
@pytest.mark.parametrize("choice", [choose_max_min, choose_dpp, choose_favored])
def test_blocks_choose_what_single_steps_choose(
    choice: Choice, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All places, of a batch of pictures with padding, equal tokens and NaN, at two widths."""
    for seed, width in ((0, 5), (1, 96)):
        x = torch.cat([picture(seed * 10 + i, 60, width) for i in range(4)])
        valid = torch.arange(60) >= torch.tensor([[0], [13], [43], [59]])
        x[~valid] = math.nan
        keep = torch.tensor([60, 20, 9, 1])
        with monkeypatch.context() as patch:
            patch.setattr(ops.diversity, "reads_are_free", lambda x: False)
            plain = choice(x, valid, keep, 60)
        with monkeypatch.context() as patch:
            patch.setattr(ops.greedy.Objective, "block", block)
            patch.setattr(ops.determinant, "WHOLE", 0 if block < 128 else 640)
            patch.setattr(ops.determinant, "ACTIVE", 3 * block)
            found = choice(x, valid, keep, 60)
        for i, real in enumerate(valid):
            assert found[i, real].tolist() == plain[i, real].tolist()


def test_a_block_ends_where_others_may_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most steps need no new block: 40 of 400 tokens need fewer than 20 blocks of 32."""
    monkeypatch.setattr(ops.greedy.Objective, "block", 32)
    opened = []
    real = ops.farthest.FarthestPoint.open
    monkeypatch.setattr(
        ops.farthest.FarthestPoint, "open", lambda self, column: (opened.append(1), real(self, column))[1]
    )
    max_min(picture(3, 400, 32), 40)
    assert 2 <= len(opened) < 20


@pytest.mark.parametrize("choice", [choose_max_min, choose_dpp, choose_favored])
def test_what_requires_grad_is_selected_from_as_well(choice: Choice) -> None:
    x, valid = picture(0, 60, 8), torch.ones(1, 60, dtype=torch.bool)
    plain = choice(x, valid, torch.tensor([9]), 9)
    assert torch.equal(choice(x.clone().requires_grad_(), valid, torch.tensor([9]), 9), plain)


# -- after given tokens -------------------------------------------------------------------------------------------


def test_the_favored_come_first_then_what_they_say_least_about() -> None:
    """Squared distances on the circle; m is 2 (1 - |mean|**2)."""
    x = directions(0, 5, 60, 90, 180)
    place = ops.greedy_gaussian_map(x, alone(x), torch.tensor([3]), 3)
    # 180 is farthest from 0 and comes second. Of 0 and 180, 90 is as far as it can be; 60 is near to both 0 and 90.
    assert order(place, 3) == [0, 4, 3]
    favor = torch.tensor([[1.0, 9, 1, 1, 1]])
    # 5 comes first, and says nearly all of 0; in the second step it is one of the selected.
    for steps in (1, 2):
        favored = ops.greedy_gaussian_map(x, alone(x), torch.tensor([3]), 3, favor, [steps])
        assert order(favored, 3) == [1, 4, 3]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_unsaid_is_the_residual_variance(seed: int) -> None:
    x = normal(seed, 1, 40, 12)
    favor = normal(seed + 5, 1, 40).exp()
    found = order(ops.greedy_gaussian_map(x, alone(x), torch.tensor([16]), 16, favor, [6]), 16)
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1)
    squared = torch.cdist(unit, unit).square()
    kernel = torch.exp(-squared / (2 * squared.mean()))
    chosen: list[int] = []
    for step, pick in enumerate(found):
        cross = kernel[:, chosen]
        rest = 1 - (cross @ torch.linalg.inv(kernel[chosen][:, chosen]) * cross).sum(1)
        weight = favor[0] if step < 6 else torch.ones(40)
        rest = rest * weight
        rest[chosen] = -1
        # Tokens are compared at a coarse precision, and favored with it.
        assert rest[pick] > rest.max() - 1e-3 * weight.max()
        chosen.append(pick)


def test_a_favored_duplicate_adds_nothing() -> None:
    x = normal(0, 1, 12, 8)
    x[0, 1:5] = x[0, 0]
    favor = torch.ones(1, 12)
    favor[0, :5] = 1e6
    place = ops.greedy_gaussian_map(x, alone(x), torch.tensor([9]), 9, favor, [5])
    chosen = order(place, 12)
    assert chosen[0] == 0 and set(chosen[8:]) == {1, 2, 3, 4} and sorted(chosen) == list(range(12))
