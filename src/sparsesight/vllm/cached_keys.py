"""Keys that an attention layer has in its cache, read whatever the attention backend's layout is.

Backends pack a block in their own order (vLLM's CPU backend in one that suits its kernels). The order is learned once
for a layer, by letting the backend write known numbers into the null block, which holds nothing of any request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BASE = 128  # digits of a number that the narrowest type of keys can hold exactly


@dataclass
class CachedKeys:
    """Reads the keys of one attention layer.

    Attributes:
        attention: vLLM's ``Attention``; it has its ``kv_cache`` once that is allocated.
    """

    attention: Any
    place: Tensor | None = None  # int64 [block * heads * size]: where a block has each element of its keys

    def read(self, blocks: Int[Tensor, " m"], count: int, dtype: torch.dtype) -> Float[Tensor, "n gd"]:
        """The first ``count`` keys in ``blocks``, which may be more, of type ``dtype``, this rank's heads side by side.

        Raises:
            UnsupportedModelError: the cache holds something else than the keys themselves.
        """
        cache: Tensor = self.attention.kv_cache
        if self.place is None:
            self.place = self._learn(cache, dtype)
        heads, size = self.attention.num_kv_heads, self.attention.head_size
        block = len(self.place) // (heads * size)
        flat = cache[blocks[: -(-count // block)].long()].flatten(1)[:, self.place]
        return flat.view(-1, heads * size)[:count]

    def _learn(self, cache: Tensor, dtype: torch.dtype) -> Tensor:
        heads, size = self.attention.num_kv_heads, self.attention.head_size
        block = cache[0].numel() // (2 * heads * size)
        slots = torch.arange(block, device=cache.device)
        number = torch.arange(block * heads * size, device=cache.device)
        read = torch.zeros(cache[0].numel(), dtype=torch.int64, device=cache.device)
        value = torch.zeros(block, heads, size, dtype=dtype, device=cache.device)
        digits = 1
        while BASE ** (digits - 1) < len(number):
            # One more than the digit, so that what is no key of the block reads as nothing.
            digit = (number // BASE ** (digits - 1) % BASE + 1).view(block, heads, size)
            cache[0] = 0
            self.attention.impl.do_kv_cache_update(self.attention, digit.to(value.dtype), value, cache, slots)
            found = cache[:1].flatten().to(torch.float32).round().long()
            read = torch.where(found > 0, read + (found - 1) * BASE ** (digits - 1), -1)
            digits += 1
        cache[0] = 0
        at = (read >= 0).nonzero()[:, 0]
        place = torch.zeros_like(number)
        if len(at) != len(number) or not torch.equal(read[at].sort().values, number):
            raise UnsupportedModelError(
                f"the KV cache of {type(self.attention.impl).__name__} ({cache.dtype}) does not hold keys as they "
                "are: leave out --kv-cache-dtype, or pass --no-enable-prefix-caching and "
                "--no-enable-chunked-prefill"
            )
        place[read[at]] = at
        return place
