"""Where the plugin meets vLLM's V2 model runner (vLLM 0.32): a model state, which is told of requests and steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
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
        # By the runner's slot of a request: its name, and what is pruned of it. A slot is written anew before it is
        # used again, also for a request that comes back after a preemption.
        self.requests: dict[int, tuple[str, RequestPlan]] = {}
        self.batch: Any = None  # of the coming step
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
        self.requests[req_index] = new_req_data.req_id, plan

    def preprocess_state(
        self, input_batch: Any, block_tables: Any, kv_cache_config: Any, num_computed_tokens: Any
    ) -> None:
        """As vLLM's, which calls it before every step but those for profiling, warming up and capturing."""
        super().preprocess_state(input_batch, block_tables, kv_cache_config, num_computed_tokens)
        self.batch = input_batch
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
        names, plans = self._requests(input_batch)
        context = SimpleNamespace(attn_metadata=built, slot_mapping={})
        self.pruner.begin(step_of(input_batch, plans), lambda r: names[r], context, recorded=True)
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
        names, plans = self._requests(batch)
        if not self.pruner.passes(plans):
            begin_step(self.pruner, step_of(batch, plans), lambda r: names[r])

    def _requests(self, batch: Any) -> tuple[list[str], list[RequestPlan]]:
        """Names of a step's requests, and what is pruned of them."""
        found = [self.requests[slot] for slot in batch.idx_mapping_np[: batch.num_reqs].tolist()]
        return [name for name, _ in found], [plan for _, plan in found]

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.pruner.end()


def step_of(batch: Any, plans: list[RequestPlan]) -> Step:
    """The requests of a step, from the runner's ``InputBatch``, and what is pruned of them."""
    count = batch.num_reqs
    return Step(
        query=np.diff(batch.query_start_loc_np[: count + 1]).astype(np.int64),
        computed=batch.num_computed_tokens_np[:count].astype(np.int64),
        plans=plans,
    )
