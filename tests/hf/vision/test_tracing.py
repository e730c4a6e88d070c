"""Rows keep what they got of their tower through modules that move, merge and normalise them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsesight.hf.vision.row_hash import row_hashes
from sparsesight.hf.vision.tracing import RowTracer, TracedRows

WIDTH = 8


class Moves(nn.Module):
    """Moves rows, then makes new ones of them; counts how often."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move, self.calls = move, 0

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        self.calls += 1
        return self.move(x).sin() * 2


def patches(x: Tensor) -> TracedRows:
    """Rows of ``x`` that carry their own numbers."""
    number = torch.arange(x[..., 0].numel(), dtype=torch.float32)
    flat = x.reshape(-1, x.shape[-1])
    return TracedRows(
        row_hashes(flat), number, number[:, None] * 2, number[:, None] * 3, torch.ones_like(number).bool()
    )


def transposed(x: Tensor) -> Tensor:
    side = round(x.shape[1] ** 0.5)
    return x.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


def whole(x: Tensor) -> Tensor:
    if x.shape[-2] != 100:
        raise KeyError(x.shape[-2])
    return x.flip(-2)


@pytest.mark.parametrize(
    ("move", "shape", "asks"),
    [
        (lambda x: x, (3, 100, WIDTH), 1),  # the rule is seen at once, and holds for other sizes
        (lambda x: x, (100, WIDTH), 1),
        (lambda x: x.unflatten(0, (-1, 4)).mean(1), (400, WIDTH), 1),
        (transposed, (2, 100, WIDTH), 2),  # a few rows say no, so all are asked
        (whole, (2, 100, WIDTH), 2),  # a few rows cannot be asked
        (whole, (100, WIDTH), 2),
        (lambda x: x.unflatten(0, (4, -1)).mean(0), (400, WIDTH), 2),  # rows that are far from one another
        (lambda x: x[:, 1:], (2, 101, WIDTH), 1),
        (lambda x: x.unflatten(1, (5, 2, 5, 2)).mean((2, 4)).flatten(1, 2), (2, 100, WIDTH), 1),
    ],
)
def test_rows_get_the_mean_of_what_they_are_made_of(move: Any, shape: tuple[int, ...], asks: int) -> None:
    torch.manual_seed(0)
    module = Moves(move)
    carrier = RowTracer(module, several=False)
    for _ in range(2):
        x = torch.randn(shape)
        seen = patches(x)
        out = module(x)
        wanted = move(seen.attention.view(*shape[:-1], 1)).flatten()
        made = carrier.carry(seen, WIDTH, (x,), {}, out, torch.bfloat16)
        assert made is not None and made[1] == WIDTH and made[0].known.all()
        assert torch.equal(made[0].number, row_hashes(out.reshape(-1, WIDTH).bfloat16()))
        torch.testing.assert_close(made[0].attention, wanted)
        torch.testing.assert_close(made[0].key[:, 0], wanted * 2)
    assert module.calls == 2 + asks, "it is asked once for each size"
    if asks == 1 and move(x).shape == x.shape:
        other = torch.randn(7, *shape[1:]) if len(shape) > 2 else torch.randn(8, WIDTH)
        assert carrier.carry(patches(other), WIDTH, (other,), {}, module(other), None) is not None
        assert module.calls == 3 + asks


def test_rows_side_by_side() -> None:
    """A pixel shuffle before the module: each of its rows is four of the tower's."""
    x = torch.randn(2, 16, WIDTH)
    shuffled = x.unflatten(1, (2, 2, 2, 2)).transpose(2, 3).reshape(2, 4, 4 * WIDTH)
    seen = patches(x)
    module = nn.Linear(4 * WIDTH, 5)
    made = RowTracer(module, several=False).carry(seen, WIDTH, (shuffled,), {}, module(shuffled), None)
    assert made is not None and made[1] == 5 and made[0].known.all()
    blocks = seen.attention.view(2, 2, 2, 2, 2).mean((2, 4)).flatten()
    torch.testing.assert_close(made[0].attention, blocks)
    # Where one of the four is something else, the row is not known; with several layers it is.
    shuffled[0, 0, :WIDTH] += 1
    for several in (False, True):
        got = RowTracer(module, several).carry(seen, WIDTH, (shuffled,), {}, module(shuffled), None)
        assert got is not None and got[0].known.tolist() == [several] + [True] * 7
    assert got is not None
    torch.testing.assert_close(got[0].attention[0], seen.attention[[1, 4, 5]].mean())


def test_a_convolution_has_its_channels_first() -> None:
    x = torch.randn(6, WIDTH, 2, 2)
    module = nn.Conv2d(WIDTH, 5, 2, 2)
    seen = patches(x.movedim(1, -1))
    made = RowTracer(module, several=False).carry(seen, WIDTH, (x,), {}, module(x), None)
    assert made is not None and made[0].known.all()
    torch.testing.assert_close(made[0].attention, seen.attention.view(6, 4).mean(1))


def test_class_tokens_stay_without_a_patch() -> None:
    x = torch.randn(2, 5, WIDTH)
    seen = patches(x)
    seen.attention[::5] = float("-inf")
    module = nn.Linear(WIDTH, 4)
    made = RowTracer(module, several=False).carry(seen, WIDTH, (x,), {}, module(x), None)
    assert made is not None and torch.equal(made[0].attention, seen.attention)


@pytest.mark.parametrize(
    ("move", "more"),
    [
        (lambda x: x.softmax(1), ()),  # rows are mixed
        (lambda x: x, (torch.randn(2, 9, WIDTH),)),  # features of a second tower
    ],
)
def test_what_is_mixed_is_not_known(move: Any, more: tuple[Any, ...]) -> None:
    x = torch.randn(2, 9, WIDTH)
    module = Moves(move)
    made = RowTracer(module, several=False).carry(patches(x), WIDTH, (x, *more), {}, module(x, *more), None)
    assert made is not None and not made[0].known.any() and len(made[0].known) == 18


def test_what_was_not_known_before_is_not_known_after() -> None:
    x = torch.randn(1, 4, WIDTH)
    seen = patches(x)
    seen.known[1] = False
    module = nn.Linear(WIDTH, 4)
    made = RowTracer(module, several=False).carry(seen, WIDTH, (x,), {}, module(x), None)
    assert made is not None and made[0].known.tolist() == [True, False, True, True]


def test_rows_of_another_width_and_calls_without_features() -> None:
    x = torch.randn(1, 4, WIDTH + 1)
    module = nn.Linear(WIDTH + 1, 4)
    carrier = RowTracer(module, several=False)
    made = carrier.carry(patches(torch.randn(1, 4, WIDTH)), WIDTH, (x,), {}, module(x), None)
    assert made is not None and not made[0].known.any()
    assert carrier.carry(patches(x), WIDTH + 1, (None, 3), {}, module(x), None) is None
