"""The attention metadata of stages: fewer rows, shorter sequences, and block tables without the gaps.

All attention layers share a block table but not their keys (see :mod:`.layout`). A stage writes the slots that vLLM
has given to the rows outside of its gaps, and reads all blocks but those of its gaps. Keys carry the rotary positions
of the prompt, whatever the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .step_plan import StepPlan


@dataclass
class StageTables:
    """Block tables and sequence lengths of all stages, by one index that decoding steps use again."""

    key: Any = None  # what the index was made for
    index: Tensor = field(default_factory=lambda: torch.zeros(0))  # int64 [stages, r, width]
    gone: Tensor = field(default_factory=lambda: torch.zeros(0))  # int64 [stages, r]

    def of(self, common: Any, plan: StepPlan, block: int) -> tuple[Tensor, Tensor]:
        """``block_table_tensor`` [stages, r, width] and ``seq_lens`` [stages, r] of a step.

        Args:
            common: vLLM's ``CommonAttentionMetadata`` of the dense step.
            plan: of the step.
            block: tokens of a block in its block table.
        """
        columns = plan.columns(block)
        key = block, columns.shape, columns.tobytes(), plan.gone.tobytes()
        if key != self.key:
            device = common.seq_lens.device
            self.index = torch.from_numpy(columns).to(device, non_blocking=True)
            self.gone = torch.from_numpy(plan.gone).to(device, non_blocking=True)
            self.key = key
        table = common.block_table_tensor[: columns.shape[1]]
        tables = torch.take_along_dim(table[None], self.index, 2)
        return tables, (common.seq_lens[: columns.shape[1]] - self.gone).to(common.seq_lens.dtype)


def stage_metadata(common: Any, plan: StepPlan, stage: int, table: Tensor, seq_lens: Tensor) -> Any:
    """``CommonAttentionMetadata`` of one stage.

    Args:
        common: of the dense step, not padded to more requests than there are.
        plan: of the step.
        stage: which stage.
        table: its block table.
        seq_lens: tokens that it holds of each request after the step.
    """
    changed: dict[str, Any] = {"block_table_tensor": table, "seq_lens": seq_lens}
    upper = common.seq_lens_cpu_upper_bound
    if upper is not None:
        upper = (upper[: len(seq_lens)] - torch.from_numpy(plan.gone[stage])).to(upper.dtype)
        changed["seq_lens_cpu_upper_bound"] = upper
    if plan.prompts:
        query = torch.from_numpy(plan.query[stage])
        dtype, device = common.query_start_loc.dtype, common.seq_lens.device
        start = torch.nn.functional.pad(query.cumsum(0), (1, 0)).to(dtype)
        rows = torch.from_numpy(plan.rows(stage)).to(device, non_blocking=True)
        changed |= {
            "query_start_loc": start.to(device, non_blocking=True),
            "query_start_loc_cpu": start,
            "num_actual_tokens": len(rows),
            "max_query_len": int(query.max()),
            "slot_mapping": common.slot_mapping[rows],
        }
    return replace(
        common, **changed, positions=None, _num_computed_tokens_cache=None, _token_to_req_indices_cache=None
    )
