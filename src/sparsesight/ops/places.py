"""Places of tokens of which some were selected in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rows import host_values, ranks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def of_sample(x: Float[Tensor, "b v c"], sample: int, column: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
    """The tokens ``column`` of a sample."""
    return x[sample] if len(column) == x.shape[1] else x[sample].index_select(0, column)


@torch.no_grad()
def one_by_one(
    choose: Callable[[int, Tensor, int], tuple[list[int], Tensor | None]],
    valid: Bool[Tensor, "b v"],
    keep: Int[Tensor, " b"],
    rest: bool = True,
) -> Int[Tensor, "b v"]:
    """The places of each sample by itself: ``choose(sample, its valid columns, count)`` gives selection and score.

    Without ``rest`` there need be no score, see :func:`with_rest`.
    """
    place, taken = torch.zeros(valid.shape, dtype=torch.long), torch.zeros_like(valid)
    score = torch.zeros(valid.shape, dtype=torch.float64)
    columns = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
    sizes, counts = host_values(valid.sum(1)), host_values(keep)
    for sample, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        column, wanted = columns[sample, : int(size)], int(min(count, size))
        if not wanted:
            continue
        order, gain = choose(sample, column, wanted)
        selected = column[order]
        taken[sample, selected] = True
        place[sample, selected] = torch.arange(len(order))
        if gain is not None:
            score[sample, column] = gain
    return with_rest(place, taken, score if rest else None, valid)


def with_rest(place: Tensor, taken: Tensor, score: Tensor | None, valid: Tensor) -> Tensor:
    """The places of the selected tokens, followed by the others in order of descending score, or all at once."""
    if score is None:
        return torch.where(taken, place, taken.sum(1, keepdim=True))
    return torch.where(taken, place, taken.sum(1, keepdim=True) + ranks(score, valid & ~taken))
