"""Where the plugin meets vLLM's model runners (vLLM 0.32): one backend for each stage, and what a step holds.

The V2 runner has a file of its own, `runner_v2`, which is imported only where that runner is.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
from torch import nn

from ..errors import UnsupportedModelError
from .metadata import StageTables, stage_metadata
from .planner import NOTHING, RequestPlan
from .pruner import Pruner
from .step import begin_step, replays
from .step_plan import Step


class Backends:
    """The attention backends of one model's stages, which share what is built for a step that nothing was removed of.

    vLLM groups layers by the name of their backend, and every group has its own metadata builder. What they build from
    a dense step is the same, so the first one does, and the others cost nothing.

    With ``kv_groups`` every stage has block tables of its own as well (:mod:`.kv_groups`). Without, all layers share
    one, which has no blocks for what a stage before the first layer removes, if there is such a stage.

    A recorded graph of whole steps holds what every layer's own builder has made of its stage's tables. They belong to
    the builder that is asked first of those that share a block table, when graphs are recorded and in every step.

    Args:
        stages: number of stages.
        requests: the most that a step holds, padding included.
        kv_groups: whether every stage has block tables of its own.
        before: whether the first stage prunes before the first layer.
    """

    def __init__(self, stages: int, requests: int = 0, kv_groups: bool = False, before: bool = False) -> None:
        self.stages, self.requests, self.kv_groups, self.before = stages, requests, kv_groups, before
        self.builders: dict[int, Any] = {}  # of what was built last, by stage, -1 before the first
        self.common: Any = None  # what the last step's metadata was built from
        self.built: Any = None  # of that; while a graph is recorded what the stages read

    def give(self, attention: Any, stage: int) -> None:
        """Give an attention layer the backend of its stage."""
        from vllm.v1.attention.backend import subclass_attention_backend

        if self.kv_groups or self.before:
            from .kv_groups import separate

            separate(attention, stage + 1 if self.kv_groups else 1)
        inner = attention.attn_backend
        attention.attn_backend = subclass_attention_backend(
            f"SparseSightStage{stage + 1}", inner, self.builder(inner.get_builder_cls(), stage)
        )

    def builder(self, inner: Any, stage: int) -> Any:
        """A metadata builder that leaves with its result what it was built from, and the builders of all stages."""
        shared = self

        class StageBuilder(inner):
            supports_update_block_table = False  # the runner calls `build` for every group

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.tables = StageTables(shared.requests)
                self.recording = False

            def build(
                self, common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any
            ) -> Any:
                if self.recording:
                    return super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
                if shared.common is not common_attn_metadata:
                    shared.builders = {}
                    built = super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
                    built.sparsesight_common = shared.common = common_attn_metadata
                    built.sparsesight_builders = shared.builders
                    built.sparsesight_tables = self.tables
                    shared.built = built
                shared.builders[stage] = self
                return shared.built

            def build_stage(self, common: Any) -> Any:
                return super().build(0, common)

            def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> Any:
                if shared.common is not common_attn_metadata:
                    shared.built = self.tables.dense(common_attn_metadata, shared.stages)
                    shared.common, self.tables.recorded = common_attn_metadata, True
                own = common_attn_metadata
                if stage >= 0:
                    own = stage_metadata(own, shared.built, stage)
                self.recording = True  # vLLM's own calls `build`
                try:
                    return super().build_for_cudagraph_capture(own)
                finally:
                    self.recording = False

        return StageBuilder


def step_of(runner: Any, plans: list[RequestPlan]) -> Step:
    """The requests of the step that a V1 runner is about to compute, and what is pruned of them."""
    batch = runner.input_batch
    count = batch.num_reqs
    return Step(
        query=np.diff(runner.query_start_loc.np[: count + 1]).astype(np.int64),
        computed=batch.num_computed_tokens_cpu[:count].astype(np.int64),
        plans=plans,
        allocated=[
            (group.kv_cache_spec.stage, table.block_size, table.get_numpy_array()[:count])
            for group, table in zip(
                runner.kv_cache_config.kv_cache_groups, batch.block_table.block_tables, strict=True
            )
            if hasattr(group.kv_cache_spec, "stage")
        ],
    )


def plans_of(runner: Any, pruner: Pruner) -> list[RequestPlan]:
    """What is pruned of the requests of a V1 runner's step; it is kept with the runner's state of a request."""
    found = []
    for name in runner.input_batch.req_ids:
        state = runner.requests[name]
        known = getattr(state, "sparsesight", None)
        if known is None or known[0] != state.num_prompt_tokens:  # a streamed prompt has grown
            places = [feature.mm_position for feature in state.mm_features]
            plan = (
                pruner.plan_of(
                    name, places, state.prompt_token_ids, state.num_prompt_tokens, state.sampling_params
                )
                if places
                else NOTHING
            )
            known = state.sparsesight = state.num_prompt_tokens, plan
        found.append(known[1])
    return found


def install(model: Any, config: Any) -> None:
    """Let the runner that a ``VllmConfig`` asks for tell a sparsified model of every step.

    Raises:
        UnsupportedModelError: the model brings a state of its own for the V2 runner.
    """
    if not config.use_v2_model_runner:
        _install_v1()
        return
    if hasattr(model, "get_model_state_cls"):
        raise UnsupportedModelError(
            f"{type(model).__name__} brings its own state for vLLM's V2 model runner: set VLLM_USE_V2_MODEL_RUNNER=0"
        )
    from .runner_v2 import SparseModelState

    model.get_model_state_cls = lambda: SparseModelState


def _install_v1() -> None:
    """The V1 runner has no place for this: one method of it is wrapped; other models are run as before."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    inner = GPUModelRunner._model_forward
    if hasattr(inner, "sparsesight"):
        return

    @wraps(inner)
    def _model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        pruner = pruner_of(self.get_model())
        plans = () if pruner is None else plans_of(self, pruner)
        if pruner is None or pruner.passes(plans, replays()):
            return inner(self, *args, **kwargs)
        names = self.input_batch.req_ids
        begin_step(pruner, step_of(self, list(plans)), lambda r: str(names[r]))
        try:
            return inner(self, *args, **kwargs)
        finally:
            pruner.end()

    _model_forward.sparsesight = True  # type: ignore[attr-defined]
    GPUModelRunner._model_forward = _model_forward


def pruner_of(model: nn.Module) -> Pruner | None:
    """The pruner of a model, if it has one."""
    return getattr(model, "pruner", None)
