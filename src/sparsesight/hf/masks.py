"""Attention masks of pruned layers, made from the masks of the unpruned sequence.

A mask comes in the form of the model's attention implementation: None (plain causal), 2D [b, keys] (FlashAttention), 4D
[b, h, rows, keys] boolean (sdpa) or additive (eager), or a flex ``BlockMask``. Selecting rows and columns preserves any
rule in it: padding, bidirectional images, a user's own mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from ..ops import causal_rows


def mask_of_rows(mask: Any, row: Tensor, offset: int, keys: int) -> Tensor:
    """What a pruning layer's selected rows [b, r] may see: broadcastable to [b, heads, r, keys].

    ``mask`` is the one that layer itself uses; ``offset`` keys were cached before its first row.
    """
    if isinstance(mask, BlockMask):
        return rows_of_block_mask(mask, row, torch.arange(keys, device=row.device).expand(row.shape[0], -1))[
            :, None
        ]
    if mask is None or mask.ndim == 2:
        return causal_rows(row, keys, offset, None if mask is None else mask[:, :keys].bool())
    mask = mask[..., :keys].expand(row.shape[0], -1, -1, -1)
    return mask.gather(2, row[:, None, :, None].expand(-1, mask.shape[1], -1, keys))


def select_mask(
    mask: Any,
    row: Tensor,
    slot: Tensor,
    valid: Tensor,
    *,
    ragged: bool,
    past: int,
    total: int,
    flash: bool,
    multiplicity: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The mask of a pruned layer.

    Args:
        mask: the mask for the unpruned sequence.
        row: [b, n] which rows of the current input are left.
        slot: [b, k] logical index of every key the layer will see.
        valid: [b, k] False for filler.
        ragged: whether any of ``valid`` is False, known to the host.
        past: logical length before this forward.
        total: logical length after it.
        flash: whether the attention implementation takes 2D masks.
        multiplicity: float32 [b, k], how many tokens each key stands for; None: one each.
        dtype: of a mask with multiplicities, which is additive in every implementation.
    """
    if mask is None:
        if not ragged and multiplicity is None:
            return None
        if flash:
            return valid
        seen = slot[:, None] <= (row + past)[..., None]
        return weighted((seen & valid[:, None])[:, None], multiplicity, dtype)
    # A mask of a windowed layer has no columns for keys that lie before the window of its first row.
    gone = total - (mask.seq_lengths[1] if isinstance(mask, BlockMask) else mask.shape[-1])
    if gone > 0:
        slot, valid, ragged = (slot - gone).clamp(min=0), valid & (slot >= gone), True
    if isinstance(mask, BlockMask):
        # One captured tensor, not a closure over the old mask's: the compiled kernel gets few inputs.
        allowed = rows_of_block_mask(mask, row, slot) & valid[:, None]
        if multiplicity is not None:
            return weighted(allowed[:, None], multiplicity, dtype)

        def pruned(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return allowed[b, q, k]

        return create_block_mask(
            pruned, B=row.shape[0], H=None, Q_LEN=row.shape[1], KV_LEN=slot.shape[1], device=str(row.device)
        )
    if mask.ndim == 2:
        if not ragged and not past:
            return None
        return mask.expand(row.shape[0], -1).gather(1, slot).bool() & valid
    mask = mask.expand(row.shape[0], -1, -1, -1)
    heads = mask.shape[1]
    row = row - (
        total - past - mask.shape[2]
    )  # it may have the last rows alone, as the hidden states then do
    mask = mask.gather(2, row[:, None, :, None].expand(-1, heads, -1, mask.shape[3]))
    mask = mask.gather(3, slot[:, None, None].expand(-1, heads, mask.shape[2], -1))
    if ragged and mask.dtype == torch.bool:
        mask = mask & valid[:, None, None]
    elif ragged:
        mask = mask.masked_fill(~valid[:, None, None], torch.finfo(mask.dtype).min)
    return weighted(mask, multiplicity, dtype)


def weighted(mask: Tensor, multiplicity: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A mask [b, h, rows, k] by which a key counts for as many tokens as it stands for.

    Proportional attention (Bolya et al., "Token Merging", arXiv:2210.09461, section 3): the logarithm of the
    multiplicity [b, k] is added to the logits. Without multiplicities the mask stays as it is.
    """
    if multiplicity is None:
        return mask
    if mask.dtype == torch.bool:
        hidden = torch.finfo(dtype).min
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, hidden)
    return mask + multiplicity.log().to(mask.dtype)[:, None, None]


def rows_of_block_mask(mask: BlockMask, row: Tensor, slot: Tensor) -> Tensor:
    """The rule of a block mask as a boolean tensor [b, rows, keys], at ``row`` [b, rows] and ``slot`` [b, keys]."""
    sample = torch.arange(row.shape[0], device=row.device)[:, None, None]
    head = torch.zeros((), dtype=torch.long, device=row.device)
    return mask.mask_mod(sample, head, row[:, :, None], slot[:, None])
