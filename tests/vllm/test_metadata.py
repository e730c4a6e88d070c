"""A stage's metadata against a plain count, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight.vllm.metadata import slots_of, stage_metadata


@dataclass
class Common:
    """The fields of vLLM's ``CommonAttentionMetadata`` that a stage changes, and one that it does not."""

    query_start_loc: Tensor
    query_start_loc_cpu: Tensor
    seq_lens: Tensor
    seq_lens_cpu_upper_bound: Tensor | None
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: Tensor
    slot_mapping: Tensor
    positions: Tensor | None = None
    _num_computed_tokens_cache: Tensor | None = None
    _token_to_req_indices_cache: Tensor | None = None


BLOCKS = torch.tensor([[7, 3, 9, 0], [2, 8, 0, 0], [5, 1, 0, 0]], dtype=torch.int32)
SIZE = 4


def common(query: list[int], seq: list[int], padding: int = 0) -> Common:
    start = torch.tensor([0, *np.cumsum(query)], dtype=torch.int32)
    lengths = torch.tensor(seq, dtype=torch.int32)
    return Common(
        start,
        start.clone(),
        lengths,
        lengths.clone(),
        sum(query),
        max(query),
        max(seq),
        BLOCKS,
        torch.arange(sum(query) + padding),
        positions=torch.arange(sum(query)),
        _num_computed_tokens_cache=lengths,
        _token_to_req_indices_cache=lengths,
    )


def by_hand(computed: list[int], rows: list[int]) -> list[int]:
    slots = []
    for r, (before, count) in enumerate(zip(computed, rows, strict=True)):
        for place in range(before, before + count):
            slots.append(int(BLOCKS[r, place // SIZE]) * SIZE + place % SIZE)
    return slots


def test_slots_fill_the_first_places_of_a_requests_own_blocks() -> None:
    computed, rows = [3, 0, 5], [1, 6, 2]
    found = slots_of(BLOCKS, torch.tensor(computed), torch.tensor(rows), 9, SIZE)
    assert found.tolist() == by_hand(computed, rows)


@pytest.mark.parametrize("padding", [0, 3])
def test_a_decoding_step_goes_on_where_the_pruned_keys_end(padding: int) -> None:
    given = common([1, 1, 1], [11, 6, 8], padding)
    found = stage_metadata(given, np.array([6, 0, 3]), np.array([1, 1, 1]), SIZE, padded=True)
    assert found.seq_lens.tolist() == [5, 6, 5] and found.seq_lens.dtype == torch.int32
    assert found.seq_lens_cpu_upper_bound.tolist() == [5, 6, 5]
    assert found.slot_mapping.tolist() == by_hand([4, 5, 4], [1, 1, 1]) + [-1] * padding
    assert found.query_start_loc.tolist() == given.query_start_loc.tolist()
    assert found.max_seq_len == 11 and found.num_actual_tokens == 3


def test_a_prompt_is_shortened_beside_others() -> None:
    given = common([1, 8, 7], [9, 8, 7], padding=2)
    found = stage_metadata(given, np.array([4, 0, 0]), np.array([1, 3, 7]), SIZE, padded=False)
    assert found.query_start_loc.tolist() == [0, 1, 4, 11] == found.query_start_loc_cpu.tolist()
    assert found.query_start_loc.dtype == torch.int32
    assert found.seq_lens.tolist() == [5, 3, 7] == found.seq_lens_cpu_upper_bound.tolist()
    assert found.slot_mapping.tolist() == by_hand([4, 0, 0], [1, 3, 7])
    assert (found.num_actual_tokens, found.max_query_len) == (11, 7)
    # What others computed from the dense lengths is gone; the given metadata is as it was.
    assert found.positions is None and found._num_computed_tokens_cache is None
    assert found._token_to_req_indices_cache is None
    assert given.seq_lens.tolist() == [9, 8, 7]
