"""Where the plugin meets vLLM's V2 model runner (vLLM 0.32): a model state, which is told of requests and steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from vllm.config import CUDAGraphMode
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from ..errors import SparseSightError
from .planner import NOTHING, RequestPlan
from .step import begin_step
from .step_plan import Step


class SparseModelState(DefaultModelState):
    """vLLM's model state, which also tells the model's pruner of every step that is no dummy."""

    def __init__(self, vllm_config: Any, model: nn.Module, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.pruner: Any = model.pruner
        # By the runner's slot of a request: its name, what is pruned of it, and the blocks of each group that it came
        # with. A slot is written anew before it is used again, also for a request that comes back after a preemption.
        self.requests: dict[int, tuple[str, RequestPlan, list[NDArray[np.int64]]]] = {}
        self.batch: Any = None  # of the coming step
        self.groups: list[Any] = []  # of vLLM's KV cache
        self.replayed = False  # whether the step before was a recorded graph, which calls no model
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end, always_call=True)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """As vLLM's; plans what is pruned of the request."""
        super().add_request(req_index, new_req_data)
        places = [feature.mm_position for feature in new_req_data.mm_features]
        plan = NOTHING
        if places:
            ids = getattr(new_req_data, "prompt_token_ids", None)
            plan = self.pruner.plan_of(
                new_req_data.req_id, places, ids, new_req_data.prompt_len, new_req_data.sampling_params
            )
        blocks = [np.array(ids, np.int64) for ids in new_req_data.block_ids] if plan.regions else []
        self.requests[req_index] = new_req_data.req_id, plan, blocks

    def preprocess_state(
        self, input_batch: Any, block_tables: Any, kv_cache_config: Any, num_computed_tokens: Any
    ) -> None:
        """As vLLM's, which calls it before every step but those for profiling, warming up and capturing."""
        super().preprocess_state(input_batch, block_tables, kv_cache_config, num_computed_tokens)
        self.batch, self.groups = input_batch, kv_cache_config.kv_cache_groups
        self.pruner.told |= self.replayed
        self.replayed = False

    def prepare_attn(
        self, input_batch: Any, cudagraph_mode: CUDAGraphMode, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """As vLLM's. A step that replays a graph in which attention is recorded gets its tables here: the runner calls
        no model then.

        Raises:
            SparseSightError: it would prune, which a graph does not; nothing has been computed of the step.
        """
        built: dict[str, Any] = super().prepare_attn(input_batch, cudagraph_mode, *args, **kwargs)
        if cudagraph_mode != CUDAGraphMode.FULL or self.batch is None:
            return built
        self.batch, self.replayed = None, True
        names, step = self._step(input_batch)
        context = SimpleNamespace(attn_metadata=built, slot_mapping={})
        self.pruner.begin(step, lambda r: names[r], context, recorded=True)
        if self.pruner.active is not None:
            self.pruner.end()
            raise SparseSightError(
                "a step that prunes was to be a recorded CUDA graph: pass "
                '--compilation-config \'{"cudagraph_mode": "PIECEWISE"}\' and report this'
            )
        return dict(context.attn_metadata)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        batch, self.batch = self.batch, None
        if batch is None:
            self.pruner.told = True
            return
        names, step = self._step(batch)
        if not self.pruner.passes(step.plans):
            begin_step(self.pruner, step, lambda r: names[r])

    def _step(self, batch: Any) -> tuple[list[str], Step]:
        """Names of a step's requests, and the step, from the runner's ``InputBatch``."""
        found = [self.requests[slot] for slot in batch.idx_mapping_np[: batch.num_reqs].tolist()]
        blocks = [own for _, _, own in found]
        step = Step(
            query=np.diff(batch.query_start_loc_np[: batch.num_reqs + 1]).astype(np.int64),
            computed=batch.num_computed_tokens_np[: batch.num_reqs].astype(np.int64),
            plans=[plan for _, plan, _ in found],
        )
        if any(plan.regions for plan in step.plans):
            held = int((step.query + step.computed).max())
            step = replace(step, allocated=[*allocated(self.groups, blocks, held)])
        return [name for name, _, _ in found], step

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.pruner.end()


def allocated(
    groups: Sequence[Any], blocks: Sequence[Sequence[NDArray[np.int64]]], held: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """What a step's requests were given of each group with gaps, as ``Step.allocated`` has it.

    The host knows the blocks that a request came with, which are those of its prompt unless that comes in parts. Later
    ones are known to the device alone; they count as given.

    Args:
        groups: of vLLM's KV cache.
        blocks: of each request in each group; none of a request that is not pruned.
        held: the most tokens that a request holds.
    """
    for number, group in enumerate(groups):
        spec = group.kv_cache_spec
        if not hasattr(spec, "stage"):
            continue
        table = np.full((len(blocks), -(-held // spec.block_size)), -1, np.int64)
        for row, own in zip(table, blocks, strict=True):
            known = own[number][: len(row)] if own else ()
            row[: len(known)] = known
        yield spec.stage, spec.block_size, table
