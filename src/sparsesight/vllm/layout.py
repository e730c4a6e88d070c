"""Where the keys of a pruned prompt lie: the layout that prefix caching and chunked prefill survive.

A *region* runs from the first visual token of a turn to the last one. After a pruning layer fewer of its rows are left.
They fill its first, partly used block, and the slots before the text that follows; the blocks between are the *gap*,
which the block tables of later layers leave out. So every other token keeps its slot in every layer, and what a
request holds follows from its token ids and from the number of computed tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.budget import Schedule
from ..errors import SparseSightError

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """Visual tokens that are pruned together; places are tokens of the prompt.

    Attributes:
        first: the first visual token.
        stop: behind the last one.
        begin: the tokens from here to ``end``, which are the region and the text that judges it, come in one step.
        end: behind the last of these.
        schedule: of the visual tokens, in whole blocks.
        removed: tokens that each stage removes, multiples of the block size.
        in_front: whether the text comes before the visual tokens.
        text: number of tokens that judge.
        digest: what, beside the tokens before and the pictures, decides which visual tokens stay.
    """

    first: int
    stop: int
    begin: int
    end: int
    schedule: Schedule
    removed: tuple[int, ...]
    in_front: bool = False
    text: int = 0
    digest: str = ""

    def gap(self, stage: int, size: int) -> tuple[int, int]:
        """The first token of the gap of a stage, and the first one behind it; ``size`` of a block."""
        start = -(-self.first // size) * size
        return start, start + self.removed[stage]


def removed_of(regions: Sequence[Region], computed: int, stages: int) -> Counts:
    """Tokens that each stage no longer holds of a request of which ``computed`` tokens are, int64 [stages].

    Raises:
        SparseSightError: a region is computed in part, which no scheduler of ours lets happen.
    """
    total = np.zeros(stages, np.int64)
    for region in regions:
        if region.stop <= computed:
            total += region.removed
        elif computed > region.begin:
            raise SparseSightError(
                f"a step begins at token {computed}, within a region of visual tokens from {region.begin} to "
                f"{region.stop}: vLLM does not use sparsesight's scheduler; leave out --scheduler-cls and report this"
            )
    return total


def cut_hit(regions: Sequence[Region], hit: int, size: int) -> int:
    """How many tokens of a prefix-cache ``hit`` can be used: it must not end within a region.

    One that ends in the text behind a region can: the keys of the region are those that this text has chosen.
    """
    for region in reversed(regions):
        if region.begin < hit < region.stop:
            hit = region.begin // size * size
    return hit


def end_of_step(regions: Sequence[Region], computed: int, end: int) -> int:
    """Where a step that would end at token ``end`` ends: not between a region and the text that judges it."""
    for region in reversed(regions):
        if computed <= region.begin < end < region.end:
            end = region.begin
    return end


def columns(
    regions: Sequence[Sequence[Region]], computed: Counts, stages: int, size: int, block: int, width: int
) -> Counts:
    """Which columns of a block table each stage reads, int64 [stages, r, width].

    Args:
        regions: of each request.
        computed: tokens of each request that are computed after the step, [r].
        stages: number of stages.
        size: tokens of a block of the cache, of which gaps are multiples.
        block: tokens of a block in the table, of which ``size`` is a multiple.
        width: number of columns of the table that are in use.
    """
    index = np.empty((stages, len(regions), width), np.int64)
    index[:] = np.arange(width)
    for r, own in enumerate(regions):
        done = [region for region in own if region.stop <= computed[r]]
        for s in range(stages if done else 0):
            left = 0  # blocks left out so far
            for region in done:
                start, stop = region.gap(s, size)
                index[s, r, start // block - left :] += (stop - start) // block
                left += (stop - start) // block
    return np.minimum(index, width - 1, out=index)
