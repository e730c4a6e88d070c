"""The attention metadata of a stage: fewer rows, shorter sequences, and slots that close the gaps.

All attention layers share a block table but not their keys, so a stage stores the tokens it kept in the first slots of
a request's own blocks. Their keys carry the rotary positions of the prompt, whatever the slot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .state import Counts

if TYPE_CHECKING:
    from jaxtyping import Int


def stage_metadata(common: Any, removed: Counts, query: Counts, block_size: int, padded: bool) -> Any:
    """``CommonAttentionMetadata`` of one stage.

    Args:
        common: of the dense step, not padded to more requests than there are.
        removed: tokens this stage no longer holds of each request, [r].
        query: rows that reach this stage, [r].
        block_size: tokens of a block in ``common.block_table_tensor``.
        padded: whether rows of padding follow the tokens (compiled steps have some); they are written nowhere.
    """
    device, start_dtype = common.seq_lens.device, common.query_start_loc.dtype
    dense = common.query_start_loc_cpu.diff()
    # One copy to the device for both; the host never waits.
    host = torch.from_numpy(query), torch.from_numpy(removed)
    rows, gone = torch.stack(host).to(device, non_blocking=True)
    computed = common.seq_lens - common.query_start_loc.diff() - gone
    start_cpu = torch.nn.functional.pad(host[0].cumsum(0), (1, 0)).to(start_dtype)
    total = int(query.sum())
    slots = slots_of(common.block_table_tensor, computed, rows, total, block_size)
    padding = common.slot_mapping.shape[0] - total if padded else 0
    upper = common.seq_lens_cpu_upper_bound
    if upper is not None:
        upper = (upper - host[1] - dense + host[0]).to(upper.dtype)
    return replace(
        common,
        query_start_loc=start_cpu.to(device, non_blocking=True),
        query_start_loc_cpu=start_cpu,
        seq_lens=(computed + rows).to(common.seq_lens.dtype),
        seq_lens_cpu_upper_bound=upper,
        num_actual_tokens=total,
        max_query_len=int(query.max()),
        slot_mapping=torch.nn.functional.pad(slots, (0, padding), value=-1).to(common.slot_mapping.dtype),
        positions=None,
        _num_computed_tokens_cache=None,
        _token_to_req_indices_cache=None,
    )


def slots_of(
    block_table: Int[Tensor, "r m"],
    computed: Int[Tensor, " r"],
    rows: Int[Tensor, " r"],
    total: int,
    block_size: int,
) -> Int[Tensor, " n"]:
    """Physical slot of every row, int64 [n]: row ``j`` of a request is the ``computed + j``-th token it holds.

    Args:
        block_table: physical blocks of each request.
        computed: tokens each request already holds.
        rows: rows of each request, ``total`` of them.
        block_size: tokens of a block.
    """
    request = torch.repeat_interleave(
        torch.arange(len(rows), device=rows.device), rows.long(), output_size=total
    )
    start = rows.cumsum(0) - rows
    place = torch.arange(total, device=rows.device) - start[request] + computed[request]
    return block_table[request, place // block_size].long() * block_size + place % block_size
