"""A check for debugging: tensor-parallel ranks keep the same rows, though none tells another what it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SparseSightError
from .config import COMPARE_RANKS

if TYPE_CHECKING:
    from jaxtyping import Int


def check_ranks(rows: Int[Tensor, " n"], stage: int, gather: Callable[[Tensor], Tensor] | None) -> None:
    """Compare a digest of the rows that a stage leaves across ranks; it waits for the device.

    Args:
        rows: of the step.
        stage: its number, for the message.
        gather: puts ``[n, c]`` of each rank side by side, in their order; None if there is one rank.

    Raises:
        SparseSightError: on every rank, if any of them keeps other rows.
    """
    if gather is None:
        return
    digest = hashlib.sha256(rows.cpu().long().numpy().tobytes()).digest()
    own = torch.tensor(
        [[*digest[:8]]], dtype=torch.float32, device=rows.device
    )  # bytes are exact in any dtype
    every = gather(own).view(-1, own.shape[1])
    if not bool((every == every[:1]).all()):
        different = (every != every[:1]).any(1).nonzero().flatten().tolist()
        raise SparseSightError(
            f"{COMPARE_RANKS}: after pruning stage {stage} tensor-parallel ranks {different} hold other rows than rank "
            "0; their keys would belong to other tokens. Report this with the method and the prompt"
        )
