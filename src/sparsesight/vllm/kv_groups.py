"""Blocks of keys for each stage of its own (vLLM 0.32, experimental): later layers are given fewer from the start.

vLLM keeps one block table for every group of layers whose cache is specified alike. Layers of different stages are
specified unalike here. How many tokens a request loses is decided when its first blocks are allocated, from sizes alone
and by the rule of the worker (:func:`.planner.choice_of`); the worker refuses to run a step without room.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from ..core.turns import Turns
from ..errors import SparseSightError, UnsupportedModelError
from ..methods import Method
from .config import asked_of, method_of, turns_of
from .planner import choice_of, visual_mask
from .requests import stages_of


@dataclass(frozen=True, kw_only=True)
class StageSpec(FullAttentionSpec):
    """The cache of a layer with full attention, of one stage; 0 before the first pruning layer."""

    stage: int = 0

    @classmethod
    def of(cls, spec: Any, stage: int) -> StageSpec:
        """``spec`` as that of a stage.

        Raises:
            UnsupportedModelError: the layer's attention is not full.
        """
        if type(spec) is not FullAttentionSpec:
            raise UnsupportedModelError(
                f"kv_groups: a layer's cache is {type(spec).__name__}, and only full attention is supported; leave "
                '"kv_groups" out of --additional-config'
            )
        given = {f.name: getattr(spec, f.name) for f in fields(FullAttentionSpec) if f.init}
        return cls(**given, stage=stage)

    @classmethod
    def merge(cls, specs: list[Any]) -> Any:
        """Specs of one stage as one. vLLM takes the error to say that these are no group."""
        if any(spec != specs[0] for spec in specs):
            raise AssertionError("layers of different stages")
        return specs[0]

    def is_uniform_with_collection(self, kv_cache_specs: dict[str, Any]) -> bool:
        """Whether all are of this stage."""
        return all(spec == self for spec in kv_cache_specs.values())


class StageManager(FullAttentionManager):
    """Allocates for what the layers of a stage hold, which is less than what a request has by ``removed``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.removed: dict[str, int] = {}  # by request, for as long as it has blocks

    def get_num_blocks_to_allocate(self, request_id: str, num_tokens: int, *args: Any, **kwargs: Any) -> int:
        """As vLLM's."""
        held = num_tokens - self.removed.get(request_id, 0)
        blocks: int = super().get_num_blocks_to_allocate(request_id, held, *args, **kwargs)
        return blocks

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> Any:
        """As vLLM's."""
        gone = self.removed.get(request_id, 0)
        return super().allocate_new_blocks(request_id, num_tokens - gone, num_tokens_main_model - gone)

    def pop_blocks_for_free(self, request_id: str) -> Any:
        """As vLLM's, which calls it of requests that finish, are aborted or preempted."""
        self.removed.pop(request_id, None)
        return super().pop_blocks_for_free(request_id)


# Whoever registers first must register vLLM's own as well, which vLLM otherwise takes to be done.
KVCacheSpecRegistry._ensure_registered()
KVCacheSpecRegistry.register(StageSpec, StageManager, uniform_type_base_spec=StageSpec)


def separate(attention: Any, stage: int) -> None:
    """Let an attention layer ask for a cache of its stage."""
    inner = attention.get_kv_cache_spec
    attention.get_kv_cache_spec = lambda config: StageSpec.of(inner(config), stage)


def removed_of(
    request: Any, method: Method, stages: tuple[int, ...], num_layers: int, turns: Turns | None = None
) -> tuple[int, ...]:
    """Tokens of a request that each stage will not hold, [1 + stages], if its prompt is computed at once.

    Args:
        request: vLLM's, as the scheduler holds it.
        method: of the server.
        stages: its pruning layers.
        num_layers: of the decoder.
        turns: how the served model's chats mark their turns, if that is known.
    """
    nothing = (0,) * (1 + len(stages))
    places = [feature.mm_position for feature in request.mm_features]
    if not places:
        return nothing
    ids = getattr(request, "prompt_token_ids", None)
    try:
        asked = asked_of(method, stages, getattr(request.sampling_params, "extra_args", None))
        schedule = choice_of(
            asked,
            visual_mask(places, request.num_prompt_tokens),
            None if ids is None else np.asarray(ids),
            turns,
            num_layers,
            stages,
        ).schedule
    except SparseSightError:
        return nothing  # the worker keeps every token as well, and says why
    if schedule is None:
        return nothing
    return (0, *(schedule.visual - stage.tokens_out for stage in schedule.stages))


class _Sparse:
    """Decides what a request loses when its first blocks are allocated, and tells the stages' managers."""

    vllm_config: Any
    kv_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.vllm_config
        method = method_of(config.additional_config)
        assert method is not None
        stages, num_layers = stages_of(config, method)
        turns = turns_of(config.additional_config)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        inner = self.kv_cache_manager.allocate_slots

        def allocate_slots(request: Any, num_new_tokens: int, *args: Any, **kwargs: Any) -> Any:
            if request.num_computed_tokens == 0:
                # A prompt that comes in parts is kept, by the rule of the worker.
                whole = num_new_tokens >= request.num_prompt_tokens
                removed = (
                    removed_of(request, method, stages, num_layers, turns)
                    if whole
                    else (0,) * (1 + len(stages))
                )
                for manager in managers:
                    manager.removed[request.request_id] = removed[manager.kv_cache_spec.stage]
            return inner(request, num_new_tokens, *args, **kwargs)

        self.kv_cache_manager.allocate_slots = allocate_slots


class SparseScheduler(_Sparse, Scheduler):
    """vLLM's scheduler for servers with ``kv_groups``."""


class SparseAsyncScheduler(_Sparse, AsyncScheduler):
    """vLLM's asynchronous scheduler for servers with ``kv_groups``."""
