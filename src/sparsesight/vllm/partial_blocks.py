"""The last, partly filled block of a turn, kept for the next turn (vLLM 0.32).

vLLM's prefix cache finds full blocks only. Where the text behind a picture does not fill the block in which the picture
ends, a hit would end within the region, and the whole region would be computed again. So that block is found as well
when its request has finished. vLLM copies it for the request that goes on from it, as it does where its own hits end
within a block (those of models with Mamba layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.kv_cache_utils import (
    generate_block_hash_extra_keys,
    hash_block_tokens,
    make_block_hash_with_group_id,
)
from vllm.v1.request import RequestStatus

from .layout import Region

# Requests of which every token but the last was computed.
_COMPUTED = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


@dataclass(frozen=True)
class PartialBlocks:
    """Registers and finds such blocks in a pool of vLLM's.

    Attributes:
        manager: vLLM's ``KVCacheManager``.
        size: tokens of a block.
        hash_function: that of vLLM's prefix cache.
    """

    manager: Any
    size: int
    hash_function: Any

    def register(self, request: Any, features: Any, regions: Sequence[Region]) -> None:
        """Let the last block of a request that has finished be found, if a region ends in it.

        Args:
            request: vLLM's; it still has its blocks.
            features: an object with the request's attributes, whose pictures are named as for its full blocks.
            regions: of the request.
        """
        stop = request.num_tokens - 1
        number = stop // self.size
        ends = [x.stop for x in regions if x.begin < number * self.size < x.stop <= stop]
        if not ends or request.status not in _COMPUTED:
            return
        pool = self.manager.block_pool
        for length, name in self._names(request, features, max(ends), stop):
            for manager in self.manager.coordinator.single_type_managers:
                block = manager.req_to_blocks[request.request_id][number]
                key = make_block_hash_with_group_id(name, manager.kv_cache_group_id)
                pool._insert_block_hash(key, block, num_tokens=length)

    def find(self, request: Any, features: Any, region: Region, hit: int) -> tuple[int, list[Any]] | None:
        """A block that holds the end of a region and some of the text behind it.

        Args:
            request: vLLM's, of which all blocks before token ``hit`` are found.
            features: as in :meth:`register`.
            region: in which the hit ends.
            hit: tokens, in full blocks.

        Returns:
            Tokens that are found with that block, and the block in each group of vLLM's; None if there is none.
        """
        if region.stop // self.size * self.size != hit:
            return None
        groups = [x.kv_cache_group_id for x in self.manager.coordinator.single_type_managers]
        stop = min(hit + self.size, request.num_tokens) - 1
        for length, name in reversed(list(self._names(request, features, region.stop, stop))):
            blocks = self.manager.block_pool.get_cached_block(name, groups)
            if blocks:
                return length, blocks
        return None

    def _names(self, request: Any, features: Any, first: int, last: int) -> Iterator[tuple[int, Any]]:
        """Hashes of a request's tokens up to each from ``first`` to ``last``, chained as vLLM chains full blocks."""
        start = first // self.size * self.size
        parent = request.block_hashes[start // self.size - 1]
        for length in range(first, last + 1):
            keys, _ = generate_block_hash_extra_keys(features, start, length, 0)
            tokens = request.all_token_ids[start:length]
            yield length, hash_block_tokens(self.hash_function, parent, tokens, keys)
