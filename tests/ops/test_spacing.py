"""Even spacing, pooled grids and shares: against plain loops, by hand, padded and alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsesight import ops
from tests.methods.stages import normal


def evenly(n: int, k: int, padding: int = 0) -> list[int]:
    group = torch.zeros(1, n + padding, dtype=torch.long)
    valid = torch.arange(n + padding)[None] >= padding
    groups = ops.group_seats(group, valid, torch.tensor([k]))
    return (ops.evenly_spaced(groups, valid)[0].nonzero()[:, 0] - padding).tolist()


@pytest.mark.parametrize("n", [1, 2, 7, 36, 576])
def test_even_spacing_by_its_formula(n: int) -> None:
    for k in range(0, n + 1, max(n // 40, 1)):
        expected = [math.floor((j + 0.5) * n / k) for j in range(k)]
        assert evenly(n, k) == evenly(n, k, padding=5) == expected


def test_each_picture_has_its_share() -> None:
    """Pictures of 8 and 16 tokens, interleaved in number with padding: 6 seats are 2 and 4."""
    frame = torch.tensor([[9, 9, *[4] * 8, *[7] * 16]])
    valid = torch.arange(26)[None] >= 2
    groups = ops.group_seats(frame, valid, torch.tensor([6]))
    assert groups.size[0, 2:].tolist() == [8] * 8 + [16] * 16
    assert groups.seats[0, 2:].tolist() == [2] * 8 + [4] * 16
    assert groups.within[0, 2:].tolist() == [*range(8), *range(16)]
    assert groups.start[0, 2:].tolist() == [0] * 8 + [8] * 16
    kept = ops.evenly_spaced(groups, valid)[0].nonzero()[:, 0] - 2
    assert kept.tolist() == [2, 6, 8 + 2, 8 + 6, 8 + 10, 8 + 14]


def pooled(x: Tensor, k: int, frame: Tensor | None = None) -> ops.Merge:
    frame = torch.zeros(1, len(x), dtype=torch.long) if frame is None else frame[None]
    return ops.grid_pool(x[None], frame, (len(x),), (k,))


@pytest.mark.parametrize(("side", "cells"), [(24, 8), (24, 12), (6, 3), (9, 3), (24, 24), (24, 1)])
def test_whole_grids_are_average_pooling(side: int, cells: int) -> None:
    x = normal(0, side * side, 5)
    made = pooled(x, cells * cells)
    image = x.T.reshape(1, 5, side, side)
    expected = torch.nn.functional.avg_pool2d(image, side // cells).flatten(2)[0].T
    torch.testing.assert_close(made.tokens[0], expected)
    size = side // cells
    middle = (size - 1) // 2
    where = [(r * size + middle) * side + c * size + middle for r in range(cells) for c in range(cells)]
    assert made.centre[0].tolist() == where


def test_a_grid_by_hand() -> None:
    """Eight tokens are 2 x 4: two cells lie in one band, five in two."""
    x = torch.tensor([[0.0], [1], [2], [3], [10], [11], [12], [13]])
    made = pooled(x, 2)  # sqrt(2 * 2 / 4) = 1 band, 2 cells of 2 x 2
    assert made.tokens.flatten().tolist() == [5.5, 7.5]
    assert made.centre.tolist() == [[0, 2]] and made.assign.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]]
    made = pooled(x, 5)  # sqrt(5 / 2) rounds to 2 bands, of 2 and 3 cells
    assert made.assign.tolist() == [[0, 0, 1, 1, 2, 2, 3, 4]]


@pytest.mark.parametrize("n", [1, 2, 12, 13, 36, 60])
def test_any_count_is_met_by_whole_cells(n: int) -> None:
    """Exactly ``k`` cells, none empty, each in a rectangle of its own, and its centre one of its own."""
    x = normal(1, n, 3)
    h = max(d for d in range(1, n + 1) if n % d == 0 and d * d <= n)
    w = n // h
    for k in range(1, n + 1):
        made = pooled(x, k)
        assert made.exists.all() and made.tokens.shape == (1, k, 3)
        assign, centre = made.assign[0], made.centre[0]
        assert torch.equal(assign[centre], torch.arange(k)) and torch.equal(centre, centre.sort().values)
        for q in range(k):
            mine = (assign == q).nonzero()[:, 0]
            rows, columns = mine // w, mine % w
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert len(mine) == area
            torch.testing.assert_close(made.tokens[0, q], x[mine].mean(0))


def test_pictures_are_pooled_apart_and_in_batches() -> None:
    """Two pictures of 9 and 36 tokens and one alone, with padding; a picture without a seat goes."""
    x = [normal(2, 45, 3), normal(3, 16, 3), normal(4, 20, 3)]
    frame = [torch.tensor([3] * 9 + [5] * 36), torch.zeros(16).long(), torch.tensor([0] * 4 + [1] * 16)]
    sizes, clusters = (45, 16, 20), (5, 4, 1)
    wide = torch.stack([torch.cat((y, y.new_full((45 - len(y), 3), math.nan))) for y in x])
    frames = torch.stack([torch.nn.functional.pad(f, (0, 45 - len(f)), value=1) for f in frame])
    together = ops.grid_pool(wide, frames, sizes, clusters)
    for i, k in enumerate(clusters):
        alone = pooled(x[i], k, frame[i])
        assert together.exists[i].sum() == k
        assert torch.equal(together.centre[i, :k], alone.centre[0])
        torch.testing.assert_close(together.tokens[i, :k], alone.tokens[0])
    image = [y.T.reshape(1, 3, s, s) for y, s in ((x[0][:9], 3), (x[0][9:], 6))]
    expected = torch.cat(
        (image[0].flatten(2).mean(2), torch.nn.functional.avg_pool2d(image[1], 3).flatten(2)[0].T)
    )
    torch.testing.assert_close(together.tokens[0, :5], expected)
    torch.testing.assert_close(together.tokens[2, 0], x[2][4:].mean(0))


def test_shares_by_hand() -> None:
    weight = torch.tensor([[5.0, 3.0, 2.0], [8.0, 1.0, 1.0], [0.0, 0.0, 0.0], [9.0, 1.0, 0.0]])
    room = torch.tensor([[9, 9, 9], [3, 9, 9], [2, 2, 2], [2, 1, 2]])
    total = torch.tensor([8, 8, 4, 5])
    made = ops.apportion(weight, room, total)
    # 4, 2.4, 1.6 leave one for the heaviest; 8 of which 3 find room, 5 are shared by equals; nothing tells apart.
    assert made.tolist() == [[5, 2, 1], [3, 3, 2], [2, 1, 1], [2, 1, 2]]


def test_shares_give_out_everything_and_no_more_than_there_is_room() -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.rand(3, 16, generator=generator) ** 6
        room = torch.randint(0, 40, (3, 16), generator=generator)
        total = (room.sum(1) * torch.rand(3, generator=generator)).long()
        made = ops.apportion(weight, room, total)
        assert torch.equal(made.sum(1), total) and (made <= room).all() and (made >= 0).all()


def test_even_runs() -> None:
    valid = torch.tensor([[False] * 3 + [True] * 10, [True] * 13, [False] * 11 + [True] * 2])
    runs = ops.even_runs(valid, 4)
    found = [[runs.column[i, p][runs.exists[i, p]].tolist() for p in range(4)] for i in range(3)]
    assert found[0] == [[3, 4, 5], [6, 7, 8], [9, 10], [11, 12]]
    assert found[1] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert found[2] == [[11], [12], [], []]
