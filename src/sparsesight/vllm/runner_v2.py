"""Where the plugin meets vLLM's V2 model runner (vLLM 0.32): a model state, which is told of requests and steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from .planner import Step
from .step import begin_step, room_of


class SparseModelState(DefaultModelState):
    """vLLM's model state, which also tells the model's pruner of every step that is no dummy."""

    def __init__(self, vllm_config: Any, model: nn.Module, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.pruner: Any = model.pruner
        # By the runner's slot of a request: its name, its prompt's length and token ids, and its sampling parameters. A
        # slot is written anew before it is used again, also for a request that comes back after a preemption.
        self.requests: dict[int, tuple[str, int, Any, Any]] = {}
        self.live: dict[str, int] = {}  # slots of the requests that the runner holds, by name
        self.batch: Any = None  # of the coming step
        self.kv_cache_config: Any = None
        self.block_tables: Any = None
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end, always_call=True)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """As vLLM's; notes what the request asks for."""
        super().add_request(req_index, new_req_data)
        self.requests[req_index] = (
            new_req_data.req_id,
            new_req_data.prompt_len,
            new_req_data.sampling_params,
            getattr(new_req_data, "prompt_token_ids", None),
        )
        self.live[new_req_data.req_id] = req_index

    def remove_request(self, req_id: str) -> None:
        """As vLLM's, which calls it of requests that finish, are aborted or preempted."""
        super().remove_request(req_id)
        self.live.pop(req_id, None)

    def initialize_kv_cache(self, kv_cache_config: Any, block_tables: Any) -> None:
        """As vLLM's; notes where the blocks of requests are."""
        super().initialize_kv_cache(kv_cache_config, block_tables)
        self.kv_cache_config, self.block_tables = kv_cache_config, block_tables

    def preprocess_state(
        self, input_batch: Any, block_tables: Any, kv_cache_config: Any, num_computed_tokens: Any
    ) -> None:
        """As vLLM's, which calls it before every step but those for profiling, warming up and capturing."""
        super().preprocess_state(input_batch, block_tables, kv_cache_config, num_computed_tokens)
        self.batch = input_batch

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        batch, self.batch = self.batch, None
        if batch is None or self.pruner.passes(self.live):
            return
        requests = [self.requests[slot] for slot in batch.idx_mapping_np.tolist()]
        begin_step(
            self.pruner,
            step_of(
                batch,
                [prompt for _, prompt, *_ in requests],
                self.kv_cache_config,
                self.block_tables,
                [ids for *_, ids in requests],
            ),
            lambda r: getattr(requests[r][2], "extra_args", None),
            lambda r: requests[r][0],
        )

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.pruner.end()


def step_of(batch: Any, prompts: list[int], kv_cache_config: Any, block_tables: Any, ids: list[Any]) -> Step:
    """The requests of a step, from the runner's ``InputBatch``, the lengths and token ids of their prompts, and the
    runner's blocks.

    A request keeps its slot for as long as it holds keys, so that the slot stands for it.
    """
    count = batch.num_reqs
    slots = batch.idx_mapping_np[:count]
    blocks = zip(block_tables.num_blocks.np, block_tables.block_sizes, strict=True)
    return Step(
        query=np.diff(batch.query_start_loc_np[: count + 1]).astype(np.int64),
        computed=batch.num_computed_tokens_np[:count].astype(np.int64),
        prompt=np.array(prompts, np.int64),
        block=slots.astype(np.int64),
        room=room_of(kv_cache_config, [own[slots] * size for own, size in blocks]),
        ids=lambda r: None if ids[r] is None else np.asarray(ids[r], np.int64),
    )
