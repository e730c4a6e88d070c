"""A stage's metadata against a plain count, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import SparseSightError
from sparsesight.core.budget import Schedule
from sparsesight.profiling.op_counter import Operations
from sparsesight.vllm.layout import Region
from sparsesight.vllm.metadata import StageTables, stage_metadata
from sparsesight.vllm.planner import RequestPlan
from sparsesight.vllm.step_plan import Step, StepPlan, plan_step


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
    num_reqs: int
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
        len(query),
        BLOCKS,
        torch.arange(sum(query) + padding),
        positions=torch.arange(sum(query)),
        _num_computed_tokens_cache=lengths,
        _token_to_req_indices_cache=lengths,
    )


def planned(query: list[int], computed: list[int], *regions: tuple[Region, ...]) -> StepPlan:
    plans = [RequestPlan(None, own) for own in regions]
    return plan_step(Step(np.array(query), np.array(computed), plans), 1, SIZE)


def region(first: int, stop: int, end: int, removed: int) -> Region:
    return Region(first, stop, first, end, Schedule(stop - first, 8, ()), (removed,))


@pytest.mark.parametrize("padding", [0, 3])
def test_a_decoding_step_reads_all_blocks_but_the_gaps_and_writes_the_slots_that_vllm_gave(
    padding: int,
) -> None:
    given = common([1, 1, 1], [12, 6, 8], padding)
    plan = planned([1, 1, 1], [11, 5, 7], (region(2, 9, 10, 4),), (), ())
    found = stage_metadata(given, StageTables().of(given, plan, SIZE), 0, plan)
    assert found.block_table_tensor[0, :2].tolist() == [7, 9]
    assert found.block_table_tensor[1, :2].tolist() == [2, 8]
    assert found.seq_lens.tolist() == [8, 6, 8] and found.seq_lens.dtype == torch.int32
    assert found.seq_lens_cpu_upper_bound.tolist() == [8, 6, 8]
    assert found.slot_mapping is given.slot_mapping and found.query_start_loc is given.query_start_loc
    assert found.num_actual_tokens == 3
    # What others computed from the dense lengths is gone; the given metadata is as it was.
    assert found.positions is None and found._num_computed_tokens_cache is None
    assert found._token_to_req_indices_cache is None
    assert given.seq_lens.tolist() == [12, 6, 8]


def test_a_prompt_is_shortened_beside_others() -> None:
    given = common([1, 11, 7], [9, 11, 7], padding=2)
    plan = planned([1, 11, 7], [8, 0, 0], (), (region(1, 9, 11, 4),), ())
    found = stage_metadata(given, StageTables().of(given, plan, SIZE), 0, plan)
    assert found.query_start_loc.tolist() == [0, 1, 8, 15] == found.query_start_loc_cpu.tolist()
    assert found.query_start_loc.dtype == torch.int32
    assert found.seq_lens.tolist() == [9, 7, 7] == found.seq_lens_cpu_upper_bound.tolist()
    # The gap is the second block, tokens 4 to 7, in rows 5 to 8 of the step.
    assert found.slot_mapping.tolist() == [*range(5), *range(9, 19)]
    assert found.block_table_tensor[1, :2].tolist() == [2, 0]
    assert (found.num_actual_tokens, found.max_query_len) == (15, 7)


def test_the_index_is_made_anew_only_when_it_changes() -> None:
    tables = StageTables()
    regions = (region(2, 9, 10, 4),)
    tables.of(common([1], [11]), planned([1], [10], regions), SIZE)
    first = tables.index
    tables.of(common([1], [12]), planned([1], [11], regions), SIZE)
    assert tables.index is first
    tables.of(common([1], [13]), planned([1], [12], regions), SIZE)
    assert tables.index is not first


def test_a_recorded_graph_reads_its_own_step() -> None:
    """What a graph reads is where it was when the graph was recorded, whatever Python objects there are since."""
    tables = StageTables(requests=3)
    long, short = (region(2, 11, 12, 8),), (region(2, 9, 10, 4),)
    recorded, lengths, _ = tables.of(
        common([1, 1, 1], [12, 6, 8]), planned([1] * 3, [11, 5, 7], (), (), ()), SIZE
    )
    replay = recorded[0], lengths[0]  # stands for the graph
    assert replay[1].tolist() == [12, 6, 8]
    for seq, regions, left, blocks in (
        ([12, 9, 13], (short, (), long), [8, 9, 5], [[7, 9], [2, 8, 0], [5, 0]]),
        ([13, 10], ((), short), [13, 6], [[7, 3, 9, 0], [2, 0]]),
    ):
        count = len(seq)
        plan = planned([1] * count, [x - 1 for x in seq], *regions)
        made, lengths, _ = tables.of(common([1] * count, seq), plan, SIZE)
        assert made.data_ptr() == recorded.data_ptr() and lengths.data_ptr() == replay[1].data_ptr()
        assert made.stride() == recorded.stride()
        assert replay[1][:count].tolist() == left
        for own, expected in zip(replay[0].tolist(), blocks, strict=False):
            assert own[: len(expected)] == expected


def test_padding_of_a_graph_reads_nothing() -> None:
    """A graph has requests that the step does not: they have no tokens, whatever a step before has left there."""
    tables = StageTables(requests=3)
    tables.of(common([1, 1, 1], [12, 6, 8]), planned([1] * 3, [11, 5, 7], (), (), ()), SIZE)
    given = common([1, 0, 0], [9, 0, 0])
    read = tables.of(given, planned([1], [8], (region(2, 8, 9, 4),)), SIZE)
    assert read.lengths.tolist() == [[5, 0, 0]] and read.upper[0].tolist() == [5, 0, 0]
    assert stage_metadata(given, read, 0).seq_lens.tolist() == [5, 0, 0]
    # A prompt that prunes is never replayed, but its step may be padded as if it were.
    given = common([11, 0, 0], [11, 0, 0])
    plan = planned([11], [0], (region(1, 9, 11, 4),))
    found = stage_metadata(given, tables.of(given, plan, SIZE), 0, plan)
    assert found.query_start_loc.tolist() == [0, 7, 7, 7] == found.query_start_loc_cpu.tolist()
    assert found.seq_lens.tolist() == [7, 0, 0] and found.num_actual_tokens == 7


def test_a_step_without_pruned_requests_fills_the_tables_as_well() -> None:
    tables = StageTables(requests=2)
    tables.of(common([1, 1], [12, 8]), planned([1, 1], [11, 7], (region(2, 9, 10, 4),), ()), SIZE)
    for read in (
        tables.of(common([1, 1], [12, 8]), planned([1, 1], [11, 7], (), ()), SIZE),
        tables.dense(common([1, 1], [12, 8]), 1),
    ):
        assert read.tables[0, :, :3].tolist() == BLOCKS[:2, :3].tolist()
        assert read.lengths.tolist() == [[12, 8]] and read.upper[0].tolist() == [12, 8]


def test_tables_that_a_graph_reads_are_not_replaced() -> None:
    tables = StageTables(requests=1)
    tables.of(common([1, 1], [12, 6]), planned([1, 1], [11, 5], (), ()), SIZE)  # before any graph they grow
    tables.recorded = True
    with pytest.raises(SparseSightError, match=r"step of 3 requests.*tables of 2"):
        tables.of(common([1, 1, 1], [12, 6, 8]), planned([1] * 3, [11, 5, 7], (), (), ()), SIZE)


def test_a_decoding_step_is_two_operations() -> None:
    tables, plan = StageTables(requests=2), planned([1, 1], [10, 8], (region(2, 9, 10, 4),), ())
    given = common([1, 1], [11, 9])
    tables.of(given, plan, SIZE)
    with Operations() as counted:
        stage_metadata(given, tables.of(given, plan, SIZE), 0, plan)
    assert counted.total.kernels == 2, counted.total.names
