"""The plugin on every model family it serves: against vanilla vLLM, and against transformers on the same weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.vllm

from sparsesight import FastV, Random, SparseVLM, SparseVLMPlus  # noqa: E402
from sparsesight.methods import Method  # noqa: E402
from sparsesight.vllm.families import MODELS  # noqa: E402

from .engines import answers, close, engine, every_stage, generated, pruner, same, sampling  # noqa: E402
from .tiny import FAMILIES, Tiny, spoken  # noqa: E402

BLOCK = 16  # a size that vLLM's kernels for CPUs can do, but do not offer: pictures are small here
KEEP = (9, 6, 3)
METHODS = [SparseVLMPlus(KEEP), SparseVLM(KEEP), FastV(KEEP, per_frame=True), Random(KEEP)]


@dataclass
class Served:
    """A family's model in transformers, and in an engine with the plugin; what this answers without pruning."""

    family: Tiny
    model: Any
    processor: Any
    prompts: list[dict[str, Any]]
    allowed: list[int]
    llm: Any
    limits: dict[str, int]
    path: Path

    @cached_property
    def dense(self) -> list[tuple[list[int], list[float]]]:
        before = pruner(self.llm).tally.pruned
        found: list[tuple[list[int], list[float]]] = self.answers(self.prompts, ["none"] * len(self.prompts))
        assert pruner(self.llm).tally.pruned == before
        return found

    def answers(self, prompts: list[Any], retain: list[Any] | None = None) -> Any:
        asked = [None] * len(prompts) if retain is None else retain
        given = [{} if x is None else {"extra_args": {"sparsesight_retain": x}} for x in asked]
        return answers(self.llm, prompts, [sampling(allowed_token_ids=self.allowed, **x) for x in given])

    def by_transformers(self, method: Method | None) -> list[tuple[list[int], list[float]]]:
        inputs = [self.family.inputs(self.processor, sample) for sample in self.family.samples()]
        return [generated(self.model, x, method, block=BLOCK) for x in inputs]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    family: Tiny = request.param
    path: Path = family.write(tmp_path_factory.mktemp(family.name))
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(path)
    prompts = [family.prompt(sample) for sample in family.samples()]
    limits = {"image": 2, **({"video": 1} if family.video else {})}
    allowed = spoken(path)
    path = family.served(path) if family.served else path
    with opened(METHODS[0], path, limits) as llm:
        yield Served(family, model, processor, prompts, allowed, llm, limits, path)


@contextmanager
def opened(method: Method | None, path: Path, limits: dict[str, int]) -> Iterator[Any]:
    """An engine; blocks are small, so that pictures have several."""
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    blocks = {"block_size": BLOCK, "num_gpu_blocks_override": 400}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CPUAttentionBackend, "get_supported_kernel_block_sizes", lambda *spec: [MultipleOf(BLOCK)]
        )
        llm = engine(
            method, model=str(path), limit_mm_per_prompt=limits, max_num_batched_tokens=4096, **blocks
        )
    try:
        yield llm
    finally:
        close(llm)


def test_every_token_is_vanilla(served: Served) -> None:
    same(served.dense, served.by_transformers(None), 1e-3)
    # The same through all gathers and scatters: more than there are is all of them.
    with every_stage():
        full = served.answers(served.prompts, [[1000, 1000, 1000]] * len(served.prompts))
    assert pruner(served.llm).tally.pruned == len(served.prompts) - 1  # one is a text
    same(full, served.dense, 1e-5)


@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, len(METHODS)))]
)
def test_answers_are_those_of_transformers_alone_and_in_a_batch(served: Served, turn: int) -> None:
    """Methods take turns over the families: what they see of a family is the same for all."""
    method: Method = METHODS[(FAMILIES.index(served.family) + turn) % len(METHODS)]
    inside = pruner(served.llm)
    method = replace(method, layers=inside.stages)
    inside.planner = replace(inside.planner, method=method)
    inside.keep_trace, inside.trace = True, []
    batched = served.answers(served.prompts)
    inside.keep_trace = False
    same(batched, served.by_transformers(method), 1e-3)
    pairs = list(zip(batched, served.dense, strict=True))
    changed = [max(abs(x - y) for x, y in zip(a, b, strict=True)) for (_, a), (_, b) in pairs]
    shortened = [
        any(region.removed[-1] for region in prompt.pruned)
        for group in inside.trace
        for prompt in group.prompts
    ]
    assert sum(x > 0.02 for x in changed) == sum(shortened) > 1, (
        changed
    )  # small pictures have no block to remove
    same([served.answers([one])[0] for one in served.prompts], batched, 1e-4)


@pytest.mark.slow  # a second engine each; test_engine.py has it of one family
def test_vllm_without_an_entry_answers_the_same(served: Served) -> None:
    dense = served.dense
    close(served.llm)  # the last that is asked of it
    with opened(None, served.path, served.limits) as llm:
        assert pruner(llm) is None
        given = sampling(allowed_token_ids=served.allowed)
        same(answers(llm, served.prompts, given), dense, 0)


def test_every_family_of_the_table_is_tested() -> None:
    tested = {"".join(x.title() for x in family.name.split("_")).lower() for family in FAMILIES} | {"llava"}
    known = {re.sub("ForConditionalGeneration|Model$|_", "", x).lower() for x in MODELS}
    assert tested == known
