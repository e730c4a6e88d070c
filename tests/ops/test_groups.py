"""The same share of every group: counts are Webster's, from sizes alone; ties are stable; padding does not count."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sparsesight import ops


def webster(seats: int, sizes: list[int]) -> list[int]:
    """Highest averages with divisors 1, 3, 5, ...; ties are not resolved as the library does."""
    won = [0] * len(sizes)
    for _ in range(seats):
        best = max(range(len(sizes)), key=lambda g: Fraction(sizes[g], 2 * won[g] + 1))
        won[best] += 1
    return won


def sample(seed: int, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, group and group size of entries whose groups follow one another: each [v]."""
    score = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed))
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return score, group, torch.tensor(sizes)[group]


def places(score: Tensor, group: Tensor, size: Tensor) -> Tensor:
    valid = torch.ones_like(score, dtype=torch.bool)[None]
    return ops.group_ranks(ops.ranks(score[None], valid), group[None], size[None], valid)[0]


@pytest.mark.parametrize("sizes", [[7], [5, 9, 2, 30], [1, 1, 1, 40], [64, 63, 1, 2], [3, 3, 3]])
def test_counts_are_websters(sizes: list[int]) -> None:
    score, group, size = sample(0, sizes)
    place = places(score, group, size)
    assert sorted(place.tolist()) == list(range(len(score)))
    for k in range(len(score) + 1):
        counts = torch.zeros(len(sizes), dtype=torch.long).scatter_add(0, group, (place < k).long()).tolist()
        assert sum(counts) == k
        # The last seats that were given were due before the next ones: that is Webster's rule, ties included.
        got = [Fraction(2 * c - 1, s) for c, s in zip(counts, sizes, strict=True) if c]
        due = [Fraction(2 * c + 1, s) for c, s in zip(counts, sizes, strict=True) if c < s]
        assert not got or not due or max(got) <= min(due)
        if got and due and max(got) < min(due):
            assert counts == webster(k, sizes)


def test_within_a_group_the_best_come_first() -> None:
    score, group, size = sample(1, [9, 20, 4])
    place = places(score, group, size)
    for g in range(3):
        own = place[group == g]
        assert torch.equal(own.argsort(), score[group == g].argsort(descending=True))


def test_one_group_changes_nothing() -> None:
    score, group, size = sample(2, [50])
    valid = torch.ones(1, 50, dtype=torch.bool)
    assert torch.equal(places(score, group, size), ops.ranks(score[None], valid)[0])


def test_ties_of_scores_go_to_the_earlier_entry() -> None:
    _, group, size = sample(0, [6, 6])
    place = places(torch.zeros(12), group, size)
    for g in range(2):
        assert torch.equal(place[group == g], place[group == g].sort().values)


@pytest.mark.parametrize("k", [1, 5, 13, 30])
def test_a_few_seats_among_many_groups_are_spread(k: int) -> None:
    """Sixty frames, fewer tokens: no gap is longer than three times the even one."""
    score, group, size = sample(3, [16] * 60)
    chosen = group[places(score, group, size) < k].sort().values
    assert len(chosen.unique()) == k
    around = torch.cat((chosen, chosen[:1] + 60))
    assert int(around.diff().max()) <= 3 * 60 / k


def test_in_a_batch() -> None:
    """Padding on either side, with any group and size, changes nothing."""
    samples = [sample(s, sizes) for s, sizes in enumerate(([5, 9, 2], [30], [1, 2, 3, 4, 5, 6, 7]))]
    width = 33
    for left in (True, False):

        def pad(x: Tensor, fill: float, left: bool = left) -> Tensor:
            filler = torch.full((width - len(x),), fill, dtype=x.dtype)
            return torch.cat((filler, x) if left else (x, filler))

        valid = torch.stack([pad(torch.ones(len(s[0]), dtype=torch.bool), 0) for s in samples])
        score, group, size = (torch.stack([pad(s[i], 3) for s in samples]) for i in range(3))
        place = ops.group_ranks(ops.ranks(score, valid), group, size, valid)
        for i, s in enumerate(samples):
            assert torch.equal(place[i][valid[i]], places(*s))
            assert bool((place[i][~valid[i]] >= len(s[0])).all())


def test_groups_that_lost_entries_keep_their_share() -> None:
    """A later stage: the sizes are those of the prompt, so counts are what they would be without the earlier stage."""
    score, group, size = sample(4, [12, 40, 7, 23])
    at_once = places(score, group, size) < 20
    first = places(score, group, size) < 50
    again = places(score[first], group[first], size[first]) < 20
    assert torch.equal(at_once.nonzero()[:, 0], first.nonzero()[:, 0][again])


def test_equal_dues_of_large_groups_are_equal() -> None:
    """Whole-number arithmetic: halves of 2 k and of 20 k entries are due together."""
    _, group, size = sample(0, [2_000, 20_000])
    score = -torch.arange(22_000).float()
    counts = torch.zeros(2, dtype=torch.long).scatter_add(
        0, group, (places(score, group, size) < 11_000).long()
    )
    assert counts.tolist() == [1_000, 10_000]
