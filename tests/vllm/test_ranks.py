"""Ranks that keep other rows are found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparsesight import SparseSightError
from sparsesight.vllm.ranks import check_ranks

ROWS = torch.tensor([0, 3, 4, 9])


def beside(*others: Tensor) -> Callable[[Tensor], Tensor]:
    """Puts what each rank says beside the first one's."""
    said: list[Tensor] = []

    def record(own: Tensor) -> Tensor:
        said.append(own)
        return own

    for rows in others:
        check_ranks(rows, 0, record)
    return lambda own: torch.cat([own, *said], 1)


def test_the_same_rows_pass() -> None:
    check_ranks(ROWS, 0, None)
    check_ranks(ROWS, 0, beside(ROWS, ROWS.int()))


@pytest.mark.parametrize("other", [[0, 3, 4, 8], [0, 3, 4], [3, 0, 4, 9]])
def test_other_rows_are_named(other: list[int]) -> None:
    with pytest.raises(SparseSightError, match=r"compare_ranks: after pruning stage 1 .* ranks \[2\]"):
        check_ranks(ROWS, 1, beside(ROWS, torch.tensor(other)))
