"""The builders of the stages, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsesight.core.budget import Schedule
from sparsesight.vllm.layout import Region
from sparsesight.vllm.planner import RequestPlan
from sparsesight.vllm.runner import Backends
from sparsesight.vllm.step_plan import Step, plan_step

from .test_metadata import SIZE, common

ONE = np.ones(1, np.int64)


class Inner:
    """A builder that counts."""

    built = 0

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast: bool = False) -> Any:
        Inner.built += 1
        return SimpleNamespace(of=common_attn_metadata)

    def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> Any:
        """As vLLM's."""
        return self.build(common_prefix_len=0, common_attn_metadata=common_attn_metadata)


def test_a_dense_step_is_built_once_and_a_stage_by_its_own_builder() -> None:
    backends = Backends(1)
    builders = [backends.builder(Inner, stage)() for stage in (-1, 0, 1)]
    before = Inner.built
    step, other = object(), object()
    results = [builder.build(0, step) for builder in builders]
    assert Inner.built == before + 1 and all(x is results[0] for x in results)
    assert results[0].of is step and results[0].sparsesight_common is step
    assert results[0].sparsesight_builders == {-1: builders[0], 0: builders[1], 1: builders[2]}
    stage = builders[1].build_stage(other)
    assert stage is not results[0] and stage.of is other and Inner.built == before + 2
    assert builders[2].build(0, step) is results[0]
    assert builders[0].build(0, other) is not results[0] and Inner.built == before + 3


def test_a_block_table_of_its_own_is_built_by_its_own_builder() -> None:
    backends = Backends(1)
    dense, first, second = (backends.builder(Inner, stage)() for stage in (-1, 0, 0))
    commons = [object(), object(), object()]
    built = [b.build(0, common) for b, common in zip((dense, first, second), commons, strict=True)]
    assert [x.of for x in built] == commons
    assert [x.sparsesight_builders for x in built] == [{-1: dense}, {0: first}, {0: second}]


def test_a_graph_is_recorded_with_the_tables_that_steps_write() -> None:
    backends = Backends(2, requests=3)
    builders = [backends.builder(Inner, stage)() for stage in (-1, 0, 1)]
    given = common([1, 1], [4, 4])
    dense, *stages = (builder.build_for_cudagraph_capture(given).of for builder in builders)
    assert dense is given
    recorded = [(x.block_table_tensor, x.seq_lens) for x in stages]
    assert recorded[0][1].data_ptr() != recorded[1][1].data_ptr()
    # A step, after the graph: its own objects, in the memory that the graph reads.
    step = common([1, 0], [12, 0])
    (made,) = {id(x): x for x in (builder.build(0, step) for builder in builders)}.values()
    assert made.of is step and made.sparsesight_tables.recorded
    regions = (Region(2, 9, 2, 10, Schedule(7, 8, ()), (4, 4)),)
    read = made.sparsesight_tables.of(
        step, plan_step(Step(ONE, ONE * 11, [RequestPlan(None, regions)]), 2, SIZE), SIZE
    )
    for stage, (table, lengths) in enumerate(recorded):
        assert (
            table.data_ptr() == read.tables[stage].data_ptr()
            and table.stride() == read.tables[stage].stride()
        )
        assert lengths.tolist() == [8, 0] and table[0, :2].tolist() == [7, 9]
    # The next graph, and a dummy step between others, find the tables dense again.
    builders[0].build_for_cudagraph_capture(common([1, 1], [1, 1]))
    assert [lengths.tolist() for _, lengths in recorded] == [[1, 1]] * 2


def test_a_builder_that_fails_to_record_builds_steps_again() -> None:
    class Failing(Inner):
        def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> Any:
            raise RuntimeError("out of memory")

    builder = Backends(1).builder(Failing, 0)()
    with pytest.raises(RuntimeError, match="out of memory"):
        builder.build_for_cudagraph_capture(common([1], [4]))
    step = common([1], [5])
    assert builder.build(0, step).sparsesight_common is step
