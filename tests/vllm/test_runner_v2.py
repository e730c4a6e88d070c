"""The V2 model runner: what is relied on of it, and the engine's tests once more on it, on a CPU."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.vllm

from sparsesight import SparseSightError, UnsupportedModelError  # noqa: E402
from sparsesight.core.budget import Schedule  # noqa: E402
from sparsesight.vllm import runner  # noqa: E402
from sparsesight.vllm.layout import Region  # noqa: E402
from sparsesight.vllm.planner import NOTHING, RequestPlan  # noqa: E402
from sparsesight.vllm.step_plan import Step, check_allocated, plan_step  # noqa: E402

from .test_metadata import SIZE  # noqa: E402


@pytest.fixture
def state_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes model states of which vLLM has set up nothing."""
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    from sparsesight.vllm.runner_v2 import SparseModelState

    monkeypatch.setattr(DefaultModelState, "__init__", lambda self, *given: None)
    monkeypatch.setattr(DefaultModelState, "rope_state", None, raising=False)
    monkeypatch.setattr(DefaultModelState, "prompt_embeds_state", None, raising=False)
    return lambda model: SparseModelState(None, model, None, None)


CACHE = SimpleNamespace(kv_cache_groups=[])


class Plan(NamedTuple):
    """Of a request: what the planner was asked."""

    asked: tuple[Any, ...]
    regions: tuple[Any, ...] = ()


class Model(nn.Module):
    """Notes when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Any] = []
        self.pruner = SimpleNamespace(
            end=lambda: self.said.append("end"),
            active=None,
            passes=lambda plans: self.passing(plans),
            begin=lambda *given, **more: self.began(*given, **more),
            plan_of=lambda name, places, ids, length, params: Plan((name, ids, length, params.extra_args)),
            told=False,
        )
        self.passing: Any = lambda plans: False
        self.began: Any = None

    def forward(self, fails: bool = False) -> None:
        self.said.append("forward")
        if fails:
            raise RuntimeError("out of memory")


def batch(slots: list[int], query: list[int], computed: list[int], padding: int = 0) -> Any:
    """An ``InputBatch``, padded to more requests as for graphs."""
    return SimpleNamespace(
        num_reqs=len(slots),
        idx_mapping_np=np.array(slots, np.intp),
        query_start_loc_np=np.array([0, *np.cumsum(query)] + [sum(query)] * padding, np.int32),
        num_computed_tokens_np=np.array(computed, np.int32),
    )


def request(name: str, prompt: int, extra_args: Any = None) -> Any:
    return SimpleNamespace(
        req_id=name,
        block_ids=([1],),
        prompt_len=prompt,
        prompt_token_ids=None,
        mm_features=[SimpleNamespace(mm_position=None)] * (prompt > 9),
        sampling_params=SimpleNamespace(extra_args=extra_args),
    )


def test_a_step_is_told_once_and_ends_also_when_it_fails(
    state_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    state = state_of(model)
    told: list[Any] = []

    def begin_step(pruner: Any, step: Any, names: Any) -> None:
        assert pruner is model.pruner
        told.append((step, [names(r) for r in range(2)]))
        model.said.append("begin")

    monkeypatch.setattr("sparsesight.vllm.runner_v2.begin_step", begin_step)
    state.add_request(3, request("a", 600, {"sparsesight_retain": 64}))
    state.add_request(0, request("b", 9))
    model()  # a dummy: no step has been prepared
    assert told == [] and model.said == ["forward", "end"] and model.pruner.told
    state.preprocess_state(batch([0, 3], [1, 605], [12, 0], padding=2), (), CACHE, None)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(True)
    assert model.said[2:] == ["begin", "forward", "end"]
    ((step, names),) = told
    assert step.query.tolist() == [1, 605] and step.computed.tolist() == [12, 0]
    assert step.plans == [NOTHING, Plan(("a", None, 600, {"sparsesight_retain": 64}))] and names == ["b", "a"]
    model()
    assert len(told) == 1
    # The slot of a request that has ended is another's.
    state.add_request(3, request("c", 40))
    state.preprocess_state(batch([3, 0], [40, 1], [0, 13]), (), CACHE, None)
    model()
    assert told[1][0].plans == [Plan(("c", None, 40, None)), NOTHING] and told[1][1] == ["c", "b"]


def test_a_step_that_passes_is_not_told(state_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    state = state_of(model)
    monkeypatch.setattr("sparsesight.vllm.runner_v2.begin_step", lambda *given: pytest.fail("told"))
    asked: list[Any] = []
    model.passing = lambda plans: asked.append(plans) or True
    state.add_request(0, request("b", 9))
    state.preprocess_state(batch([0], [1], [12]), (), CACHE, None)
    model()
    assert asked == [[NOTHING]]


def test_a_replay_gets_its_tables_before_it(state_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner calls no model then, so that no hook of it runs."""
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    monkeypatch.setattr(DefaultModelState, "prepare_attn", lambda self, *given, **more: {"layer0": "dense"})
    monkeypatch.setattr("sparsesight.vllm.runner_v2.begin_step", lambda *given: model.said.append("begin"))
    model = Model()
    state = state_of(model)
    told: list[Any] = []

    def began(step: Any, names: Any, context: Any, recorded: bool) -> None:
        told.append((step, names(0), recorded))
        context.attn_metadata = {**context.attn_metadata, "layer1": "stage"}

    model.began = began
    state.add_request(0, request("a", 600))
    # A graph is recorded, or a dummy is run: no step has been prepared.
    assert state.prepare_attn(batch([0], [1], [0]), CUDAGraphMode.FULL, for_capture=True) == {
        "layer0": "dense"
    }
    assert not told
    step = batch([0], [1], [600], padding=3)
    state.preprocess_state(step, (), CACHE, None)
    found = state.prepare_attn(step, CUDAGraphMode.FULL)
    assert found == {"layer0": "dense", "layer1": "stage"}
    ((made, name, recorded),) = told
    assert made.query.tolist() == [1] and made.computed.tolist() == [600] and name == "a" and recorded
    # The next step runs the model. That none has run in between is no sign of a runner that knows nothing.
    model.pruner.told = False
    state.preprocess_state(step, (), CACHE, None)
    assert model.pruner.told
    assert state.prepare_attn(step, CUDAGraphMode.PIECEWISE) == {"layer0": "dense"}
    model()
    assert model.said == ["begin", "forward", "end"] and len(told) == 1
    # A graph does not prune.
    state.preprocess_state(step, (), CACHE, None)
    model.pruner.active = object()
    with pytest.raises(SparseSightError, match="PIECEWISE"):
        state.prepare_attn(step, CUDAGraphMode.FULL)
    assert model.said[-1] == "end"


def test_a_key_without_a_block_is_noticed() -> None:
    """Of the blocks that a request came with; -1 stands for those that came later."""
    from sparsesight.vllm.runner_v2 import allocated

    group = SimpleNamespace(kv_cache_spec=SimpleNamespace(stage=1, block_size=SIZE))
    other = SimpleNamespace(kv_cache_spec=SimpleNamespace(block_size=SIZE))
    own = [np.array([5, 6, 7]), np.array([5, 0, 7])]
    ((stage, block, table),) = allocated([other, group], [own, []], 15)
    assert (stage, block, table.tolist()) == (1, SIZE, [[5, 0, 7, -1], [-1] * 4])
    regions = (Region(2, 9, 2, 10, Schedule(7, 8, ()), (SIZE,)),)

    def check(ids: list[int]) -> None:
        blocks = [[np.array(ids)]]
        step = Step(np.array([1]), np.array([11]), [RequestPlan(None, regions)])
        check_allocated(
            plan_step(replace(step, allocated=[*allocated([group], blocks, 12)]), 1, SIZE), lambda r: "a"
        )

    check([5, 0, 7])  # the gap has none
    check([5, 0])  # the last one came later
    with pytest.raises(SparseSightError, match="request a has no block"):
        check([5, 6, 0])


def test_a_model_with_a_state_of_its_own_is_refused() -> None:
    config = SimpleNamespace(use_v2_model_runner=True)
    model = nn.Linear(1, 1)
    runner.install(model, config)
    from sparsesight.vllm.runner_v2 import SparseModelState

    assert model.get_model_state_cls() is SparseModelState
    with pytest.raises(UnsupportedModelError, match="VLLM_USE_V2_MODEL_RUNNER=0"):
        runner.install(model, config)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_vllm_has_what_is_relied_on() -> None:
    """A new vLLM that changes a hook fails here, with the name of what has changed."""
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu import model_states
    from vllm.v1.worker.gpu.input_batch import InputBatch
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    from sparsesight.vllm.runner_v2 import SparseModelState

    for name in ("__init__", "add_request", "preprocess_state"):
        ours, theirs = (parameters(getattr(x, name)) for x in (SparseModelState, ModelState))
        assert ours == theirs, name
    fields = InputBatch.__dataclass_fields__
    assert {"num_reqs", "idx_mapping_np", "query_start_loc_np", "num_computed_tokens_np"} <= set(fields)
    given = NewRequestData("r", [1, 2], [], None, None, ([1],), 0, None)
    assert (given.req_id, given.prompt_len, given.sampling_params, given.block_ids) == ("r", 2, None, ([1],))
    model = nn.Linear(1, 1)
    model.get_model_state_cls = lambda: SparseModelState  # type: ignore[assignment]
    assert model_states.resolve_model_state_cls(None, model) is SparseModelState
    # Of a step: ours is told before the forward, of real batches only, and the model itself is called.
    source = inspect.getsource(GPUModelRunner.execute_model)
    order = ["self.model_state.preprocess_state(", "self.model_state.prepare_inputs_embeds(", "self.model(**"]
    places = [source.index(part) for part in order]
    assert places == sorted(places)
    # And before a graph is replayed.
    order = [order[0], "self.model_state.prepare_attn(", "self.cudagraph_manager.run_fullgraph("]
    assert sorted(map(source.index, order)) == list(map(source.index, order))
    assert source.index("if not dummy_run:") < places[0]


# What runs on V2 as well: requests that come and go beside others; then all of the engine's tests of answers, and one
# family with positions on three axes; methods before the first layer.
ON_V2 = [
    ("test_engine.py", "staggered and 3"),
    pytest.param(
        "test_engine.py",
        "staggered or alone_and_in_a_batch or in_parts or preempted or aborted or counts_of_everything or two_pictures",
        marks=pytest.mark.slow,
    ),
    pytest.param("test_families.py", "qwen2_vl", marks=pytest.mark.slow),
    pytest.param("test_before.py", "no_blocks or halves or qwen2_vl", marks=pytest.mark.slow),
    pytest.param("test_prefix_caching.py", "fills_no_block", marks=pytest.mark.slow),
    pytest.param("test_tower.py", "inside", marks=pytest.mark.slow),
]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which the V2 runner needs, is not installed")
@pytest.mark.parametrize(("file", "tests"), ON_V2)
def test_the_same_tests_pass_on_the_v2_runner(file: str, tests: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-p", "tests.vllm.v2_on_cpu", "-p", "no:cacheprovider"]
    command += [f"tests/vllm/{file}", "-x", "-s", "-k", tests]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said[-4000:]
    assert "Using V2 Model Runner" in said and " passed" in said and " skipped" not in said, said[-4000:]


def test_torch_calls_hooks_as_is_relied_on(state_of: Any) -> None:
    model = Model()
    state = state_of(model)
    state.preprocess_state(batch([5], [1], [0]), (), CACHE, None)
    with pytest.raises(KeyError), torch.no_grad():  # a step of a request that was never added
        model()
    assert model.said == ["end"]
