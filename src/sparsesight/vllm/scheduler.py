"""vLLM's schedulers (vLLM 0.32), which know where pruned prompts may be cut and what their cached blocks stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from .config import method_of
from .kv_groups import StageManager, managers_of
from .layout import Region, cut_hit, end_of_step
from .partial_blocks import PartialBlocks
from .planner import NOTHING, RequestPlan
from .requests import planner_of


class _Keyed:
    """A request as vLLM's block hasher sees it: its pictures are named by what is kept of them as well.

    vLLM puts the names of the pictures in a block into the block's hash, and each hash into the next one. So blocks in
    front of the first region keep their hashes, those from a region on belong to its method, budget and question.
    """

    def __init__(self, request: Any, features: list[Any]) -> None:
        self._request, self.mm_features = request, features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def keyed(features: Sequence[Any], regions: Sequence[Region]) -> list[Any]:
    """Features of a request, those within a region renamed."""
    found = []
    for feature in features:
        place = feature.mm_position
        for region in regions:
            if place.offset < region.stop and region.first < place.offset + place.length:
                feature = replace(feature, identifier=f"{feature.identifier}/{region.digest}")
        found.append(feature)
    return found


def _keyed_request(request: Any) -> _Keyed:
    """A pruned request as vLLM's block hasher sees it."""
    return _Keyed(request, keyed(request.mm_features, request.sparsesight.regions))


def _hasher(inner: Callable[[Any], Any], features: list[Any]) -> Callable[[Any], Any]:
    """vLLM's hasher of a request's blocks, for one with these features."""
    return lambda request: inner(_Keyed(request, features))


class _Sparse:
    """Stands before one of vLLM's schedulers among the bases of a class."""

    vllm_config: Any
    kv_cache_manager: Any
    encoder_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.vllm_config
        method = method_of(config.additional_config)
        assert method is not None
        self.planner = planner_of(config, method)
        self.inner_computed_blocks = self.kv_cache_manager.get_computed_blocks
        self.kv_cache_manager.get_computed_blocks = self._computed_blocks
        self.managers = managers_of(self.kv_cache_manager)
        hash_function = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
        self.partial = PartialBlocks(self.kv_cache_manager, self.planner.block_size, hash_function)
        if self.managers:
            self.inner_allocate = self.kv_cache_manager.allocate_slots
            self.kv_cache_manager.allocate_slots = self._allocate_slots

    def add_request(self, request: Any) -> None:
        """As vLLM's; names the blocks of a request that is pruned."""
        plan = plan_of(request, self.planner)
        request.sparsesight = plan
        if plan.regions and request._block_hasher is not None:
            request._block_hasher = _hasher(request._block_hasher, keyed(request.mm_features, plan.regions))
            request.block_hashes = []
            request.update_block_hashes()
        super().add_request(request)  # type: ignore[misc]

    def _computed_blocks(self, request: Any, max_cache_hit_length: int | None = None) -> Any:
        """As the manager's ``get_computed_blocks``; no hit ends within a region. The bound is vLLM 0.33's."""
        bound = () if max_cache_hit_length is None else (max_cache_hit_length,)
        regions = request.sparsesight.regions
        StageManager.looked_up = regions
        try:
            blocks, hit, boundary = self.inner_computed_blocks(request, *bound)
        finally:
            StageManager.looked_up = ()
        if regions and (usable := cut_hit(regions, hit, self.planner.block_size)) < hit:
            within = next(region for region in regions if region.begin < hit < region.stop)
            found = None if bound else self.partial.find(request, _keyed_request(request), within, hit)
            if found is not None and cut_hit(regions, found[0], self.planner.block_size) == found[0]:
                every = [[*own, last] for own, last in zip(blocks.blocks, found[1], strict=True)]
                return self.kv_cache_manager.create_kv_cache_blocks(tuple(every)), found[0], boundary
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, usable)
            hit = usable
        return blocks, hit, boundary

    def _free_request_blocks(self, request: Any) -> None:
        """As vLLM's, which calls it of requests that finish or are preempted."""
        regions = request.sparsesight.regions
        if regions and request.block_hashes:
            self.partial.register(request, _keyed_request(request), regions)
        super()._free_request_blocks(request)  # type: ignore[misc]

    def _allocate_slots(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As the manager's ``allocate_slots``; the stages' managers know the gaps of the request."""
        if request.sparsesight.regions:
            for manager in self.managers:
                manager.regions[request.request_id] = request.sparsesight.regions
        return self.inner_allocate(request, *args, **kwargs)

    def _try_schedule_encoder_inputs(
        self, request: Any, num_computed_tokens: int, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> Any:
        """As vLLM's, which calls it of every request with pictures; no step ends between one and its question."""
        regions = request.sparsesight.regions
        while True:
            asked = num_new_tokens
            if regions:
                end = end_of_step(regions, num_computed_tokens, num_computed_tokens + num_new_tokens)
                num_new_tokens = end - num_computed_tokens
            found = super()._try_schedule_encoder_inputs(  # type: ignore[misc]
                request, num_computed_tokens, num_new_tokens, *args, **kwargs
            )
            num_new_tokens = found[1]
            end = num_computed_tokens + num_new_tokens
            if num_new_tokens < asked:
                self._let_go(request, end)
            if not regions or end_of_step(regions, num_computed_tokens, end) == end:
                return found

    def _let_go(self, request: Any, end: int) -> None:
        """Give back encoder outputs of pictures behind the end of a step: two requests could wait for each other's."""
        for i in list(self.encoder_cache_manager.get_cached_input_ids(request)):
            if request.mm_features[i].mm_position.offset >= end:
                self.encoder_cache_manager.free_encoder_input(request, i)


def plan_of(request: Any, planner: Any) -> RequestPlan:
    """What is pruned of vLLM's ``Request``."""
    places = [feature.mm_position for feature in request.mm_features]
    if not places:
        return NOTHING
    ids = getattr(request, "prompt_token_ids", None)
    extra_args = getattr(request.sampling_params, "extra_args", None)
    plan: RequestPlan = planner.request_plan(places, ids, request.num_prompt_tokens, extra_args)
    return plan


class SparseScheduler(_Sparse, Scheduler):
    """vLLM's scheduler."""


class SparseAsyncScheduler(_Sparse, AsyncScheduler):
    """vLLM's asynchronous scheduler."""
