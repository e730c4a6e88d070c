"""The builders of the stages, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sparsesight.vllm.runner import Backends


class Inner:
    """A builder that counts."""

    built = 0

    def build(self, prefix: int, common: Any, fast: bool = False) -> Any:
        Inner.built += 1
        return SimpleNamespace(of=common)


def test_a_dense_step_is_built_once_and_a_stage_by_its_own_builder() -> None:
    backends = Backends()
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
    backends = Backends()
    dense, first, second = (backends.builder(Inner, stage)() for stage in (-1, 0, 0))
    commons = [object(), object(), object()]
    built = [b.build(0, common) for b, common in zip((dense, first, second), commons, strict=True)]
    assert [x.of for x in built] == commons
    assert [x.sparsesight_builders for x in built] == [{-1: dense}, {0: first}, {0: second}]
