"""Blocks of keys for each stage of its own (vLLM 0.32): later layers are given none for their gaps.

vLLM keeps one block table for every group of layers whose cache is specified alike. Layers of different stages are
specified unalike here. Where a request has gaps follows from its plan (:class:`.planner.RequestPlan`), which scheduler
and worker both make; the worker refuses to run a step that would read or write a block that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from ..errors import UnsupportedModelError
from .layout import Region


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
    """Allocates no blocks for the gaps of a stage: null blocks stand for them, as vLLM has them behind its windows."""

    looked_up: ClassVar[Sequence[Region]] = ()  # regions of the request whose blocks are being looked up

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.regions: dict[str, Sequence[Region]] = {}  # by request, for as long as it has blocks

    def get_num_blocks_to_allocate(
        self, request_id: str, num_tokens: int, new_computed_blocks: Any, *args: Any, **kwargs: Any
    ) -> int:
        """As vLLM's."""
        blocks: int = super().get_num_blocks_to_allocate(
            request_id, num_tokens, new_computed_blocks, *args, **kwargs
        )
        held = len(self.req_to_blocks.get(request_id, ())) + len(new_computed_blocks)
        return blocks - sum(self._absent(request_id, held, num_tokens))

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> Any:
        """As vLLM's."""
        blocks = self.req_to_blocks[request_id]
        absent = self._absent(request_id, len(blocks), num_tokens)
        if not any(absent):
            return super().allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)
        # None but the copy of a block that the request goes on from, if there is one.
        made: list[Any] = super().allocate_new_blocks(
            request_id, len(blocks) * self.block_size, num_tokens_main_model
        )
        new = iter(self.block_pool.get_new_blocks(len(absent) - sum(absent)))
        added = [self._null_block if null else next(new) for null in absent]
        blocks.extend(added)
        if self._record_new_block_ids:
            self.new_block_ids.extend(block.block_id for block in added if not block.is_null)
        return [*made, *added]

    def pop_blocks_for_free(self, request_id: str) -> Any:
        """As vLLM's, which calls it of requests that finish, are aborted or preempted."""
        self.regions.pop(request_id, None)
        return super().pop_blocks_for_free(request_id)

    def _absent(self, request_id: str, held: int, num_tokens: int) -> list[bool]:
        """Of the blocks behind the first ``held`` ones, which lie in a gap."""
        regions = self.regions.get(request_id, ())
        wanted = range(held, -(-num_tokens // self.block_size))
        return [in_gap(regions, self.kv_cache_spec.stage, self.block_size, i) for i in wanted]

    @classmethod
    def find_longest_cache_hit(
        cls,
        block_hashes: Any,
        max_length: int,
        kv_cache_group_ids: list[int],
        block_pool: Any,
        kv_cache_spec: Any,
        drop_eagle_block: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As vLLM's; blocks of gaps are not looked for."""
        size = kv_cache_spec.block_size
        found: tuple[list[Any], ...] = tuple([] for _ in kv_cache_group_ids)
        for i, name in enumerate(islice(block_hashes, max_length // size)):
            if in_gap(cls.looked_up, kv_cache_spec.stage, size, i):
                blocks = [block_pool.null_block] * len(found)
            else:
                blocks = block_pool.get_cached_block(name, kv_cache_group_ids)
            if not blocks:
                break
            for own, block in zip(found, blocks, strict=True):
                own.append(block)
        if drop_eagle_block and found[0]:  # so that the drafter gets hidden states of tokens before its own
            for own in found:
                own.pop()
        return found, len(found[0]) * size


def in_gap(regions: Sequence[Region], stage: int, size: int, block: int) -> bool:
    """Whether a block of a request lies in a gap of a stage; 0 is before the first pruning layer."""
    if not stage:
        return False
    gaps = (region.gap(stage - 1, size) for region in regions)
    return any(start <= block * size < stop for start, stop in gaps)


# Whoever registers first must register vLLM's own as well, which vLLM otherwise takes to be done.
KVCacheSpecRegistry._ensure_registered()
KVCacheSpecRegistry.register(StageSpec, StageManager, uniform_type_base_spec=StageSpec)


def separate(attention: Any, stage: int) -> None:
    """Let an attention layer ask for a cache of its stage."""
    inner = attention.get_kv_cache_spec
    attention.get_kv_cache_spec = lambda config: StageSpec.of(inner(config), stage)


def managers_of(kv_cache_manager: Any) -> list[StageManager]:
    """The managers of stages in vLLM's; none without ``kv_groups``."""
    managers = kv_cache_manager.coordinator.single_type_managers
    return [manager for manager in managers if isinstance(manager, StageManager)]
