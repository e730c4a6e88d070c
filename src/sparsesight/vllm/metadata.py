"""The attention metadata of stages: fewer rows, shorter sequences, and block tables without the gaps.

All attention layers share a block table but not their keys (see :mod:`.layout`). A stage writes the slots that vLLM
has given to the rows outside of its gaps, and reads all blocks but those of its gaps. Keys carry the rotary positions
of the prompt, whatever the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import SparseSightError
from .step_plan import StepPlan


class StageRows(NamedTuple):
    """What the stages read of a step's requests, padding included."""

    tables: Tensor  # ``block_table_tensor`` [stages, r, columns]
    lengths: Tensor  # ``seq_lens`` [stages, r]
    upper: list[Tensor | None]  # per stage ``seq_lens_cpu_upper_bound`` [r], if vLLM has it


@dataclass
class StageTables:
    """Block tables and sequence lengths of all stages, of one of vLLM's block tables.

    They lie in buffers that no step replaces, so that a recorded graph that reads them reads those of its own step. A
    decoding step writes them by two operations; the index that it goes by is uploaded only when it changes.

    Attributes:
        requests: the most that a step holds, padding included; buffers have room for them.
        recorded: whether a graph reads the buffers, which then cannot be replaced.
    """

    requests: int = 0
    recorded: bool = False
    key: Any = None  # what the index was made for
    index: Tensor | None = None  # int64 [stages, r, width]
    gone: Tensor | None = None  # of the type of sequence lengths, [stages, r]
    tables: Tensor | None = None  # [stages, requests, all columns of vLLM's table]
    lengths: Tensor | None = None  # [stages, requests]

    def of(self, common: Any, plan: StepPlan, block: int) -> StageRows:
        """What a step's stages read, in the buffers.

        Args:
            common: vLLM's ``CommonAttentionMetadata`` of the dense step. Requests behind those of the plan are padding
                of a recorded graph, and are as in the dense step.
            plan: of the step.
            block: tokens of a block in its block table.
        """
        columns, gone = plan.columns(block), plan.gone
        if not plan.changes:
            return self.dense(common, len(columns), columns.shape[2])
        tables, lengths = self._buffers(common, len(columns))
        padding = common.num_reqs - gone.shape[1]
        if padding:
            more = np.broadcast_to(np.arange(columns.shape[2]), (len(columns), padding, columns.shape[2]))
            columns, gone = np.concatenate((columns, more), 1), np.pad(gone, ((0, 0), (0, padding)))
        key = block, columns.shape, columns.tobytes(), gone.tobytes()
        if key != self.key or self.index is None or self.gone is None:
            self.index = torch.from_numpy(columns).to(lengths.device, non_blocking=True)
            self.gone = torch.from_numpy(gone).to(lengths.device, lengths.dtype, non_blocking=True)
            self.key = key
        stages, count, width = columns.shape
        every = common.block_table_tensor[:count, :width].expand(stages, -1, -1)
        torch.gather(every, 2, self.index, out=tables[:, :count, :width])
        torch.sub(common.seq_lens[:count], self.gone, out=lengths[:, :count])
        upper: list[Tensor | None] = [None] * stages
        if common.seq_lens_cpu_upper_bound is not None:
            dense = common.seq_lens_cpu_upper_bound.numpy()[:count]
            upper = [torch.from_numpy(own) for own in dense - gone[:, : len(dense)].astype(dense.dtype)]
        return StageRows(tables[:, :count], lengths[:, :count], upper)

    def dense(self, common: Any, stages: int, width: int | None = None) -> StageRows:
        """What stages read of a step of which no stage lacks a token, in the buffers.

        Args:
            common: as in :meth:`of`.
            stages: number of stages.
            width: columns of the block table that are in use; all by default.
        """
        tables, lengths = self._buffers(common, stages)
        count = common.num_reqs
        tables[:, :count, :width] = common.block_table_tensor[:count, :width]
        lengths[:, :count] = common.seq_lens[:count]
        return StageRows(tables[:, :count], lengths[:, :count], [common.seq_lens_cpu_upper_bound] * stages)

    def _buffers(self, common: Any, stages: int) -> tuple[Tensor, Tensor]:
        """The buffers, made by the first step.

        Raises:
            SparseSightError: they are too small, and a recorded graph reads them.
        """
        table, count = common.block_table_tensor, common.num_reqs
        if self.tables is None or self.lengths is None or count > self.tables.shape[1]:
            if self.recorded:
                raise SparseSightError(
                    f"a step of {count} requests, padding included, but recorded CUDA graphs read tables of "
                    f"{self.requests}: pass --enforce-eager and report this"
                )
            self.requests = max(self.requests, count)
            self.tables = table.new_zeros(stages, self.requests, table.shape[1])
            self.lengths = common.seq_lens.new_zeros(stages, self.requests)
        return self.tables, self.lengths


def stage_metadata(common: Any, read: StageRows, stage: int, plan: StepPlan | None = None) -> Any:
    """``CommonAttentionMetadata`` of one stage.

    Args:
        common: of the dense step. Requests behind those of the plan are padding of a recorded graph.
        read: by the stages.
        stage: which stage.
        plan: of the step; None if nothing is pruned in it.
    """
    changed: dict[str, Any] = {"block_table_tensor": read.tables[stage], "seq_lens": read.lengths[stage]}
    changed["seq_lens_cpu_upper_bound"] = read.upper[stage]
    if plan is not None and plan.prompts:
        query = torch.from_numpy(np.pad(plan.query[stage], (0, common.num_reqs - plan.query.shape[1])))
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
