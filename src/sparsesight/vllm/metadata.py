"""The attention metadata of stages: fewer rows, shorter sequences, and block tables without the gaps.

All attention layers share a block table but not their keys (see :mod:`.layout`). A stage writes the slots that vLLM
has given to the rows outside of its gaps, and reads all blocks but those of its gaps. Keys carry the rotary positions
of the prompt, whatever the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .step_plan import StepPlan


@dataclass
class StageTables:
    """Block tables and sequence lengths of all stages, of one of vLLM's block tables.

    They lie in buffers that no step replaces, so that a recorded graph that reads them reads those of its own step. A
    decoding step writes them by two operations; the index that it goes by is uploaded only when it changes.

    Attributes:
        requests: the most that a step holds; buffers have room for them.
    """

    requests: int = 0
    key: Any = None  # what the index was made for
    index: Tensor | None = None  # int64 [stages, r, width]
    gone: Tensor | None = None  # of the type of sequence lengths, [stages, r]
    tables: Tensor | None = None  # [stages, requests, all columns of vLLM's table]
    lengths: Tensor | None = None  # [stages, requests]

    def of(self, common: Any, plan: StepPlan, block: int) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """What a step's stages read, in the buffers.

        Args:
            common: vLLM's ``CommonAttentionMetadata`` of the dense step.
            plan: of the step.
            block: tokens of a block in its block table.

        Returns:
            ``block_table_tensor`` [stages, r, columns], ``seq_lens`` [stages, r], and per stage
            ``seq_lens_cpu_upper_bound`` [r], if ``common`` has it.
        """
        columns = plan.columns(block)
        stages, count, width = columns.shape
        table, lengths = common.block_table_tensor, common.seq_lens
        key = block, columns.shape, columns.tobytes(), plan.gone.tobytes()
        if key != self.key or self.index is None or self.gone is None:
            self.index = torch.from_numpy(columns).to(lengths.device, non_blocking=True)
            self.gone = torch.from_numpy(plan.gone).to(lengths.device, lengths.dtype, non_blocking=True)
            self.key = key
        if self.tables is None or self.lengths is None or self.tables.shape[1] < count:
            rows = max(self.requests, count)
            self.tables = table.new_zeros(stages, rows, table.shape[1])
            self.lengths = lengths.new_zeros(stages, rows)
        every = table[:count, :width].expand(stages, -1, -1)
        torch.gather(every, 2, self.index, out=self.tables[:, :count, :width])
        torch.sub(lengths[:count], self.gone, out=self.lengths[:, :count])
        upper: list[Tensor | None] = [None] * stages
        if common.seq_lens_cpu_upper_bound is not None:
            dense = common.seq_lens_cpu_upper_bound.numpy()[:count]
            upper = [torch.from_numpy(own) for own in dense - plan.gone.astype(dense.dtype)]
        return self.tables[:, :count], self.lengths[:, :count], upper


def stage_metadata(
    common: Any, plan: StepPlan, stage: int, table: Tensor, seq_lens: Tensor, upper: Tensor | None
) -> Any:
    """``CommonAttentionMetadata`` of one stage.

    Args:
        common: of the dense step, not padded to more requests than there are.
        plan: of the step.
        stage: which stage.
        table: its block table.
        seq_lens: tokens that it holds of each request after the step.
        upper: the same on the host, or more of them; None where vLLM has none.
    """
    changed: dict[str, Any] = {"block_table_tensor": table, "seq_lens": seq_lens}
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
