"""Where the plugin meets vLLM's V1 model runner (vLLM 0.32): what a step holds, and one backend for each stage."""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
from torch import nn

from .planner import Step
from .pruner import Pruner


class Backends:
    """The attention backends of one model's stages, which share what is built for a step that nothing was removed of.

    vLLM groups layers by the name of their backend, and every group has its own metadata builder. What they build from
    a dense step is the same, so the first one does, and the others cost nothing.
    """

    def __init__(self) -> None:
        self.builders: dict[int, Any] = {}  # by stage, -1 before the first
        self.common: Any = None  # what the last step's metadata was built from
        self.built: Any = None

    def give(self, attention: Any, stage: int) -> None:
        """Give an attention layer the backend of its stage."""
        from vllm.v1.attention.backend import subclass_attention_backend

        inner = attention.attn_backend
        attention.attn_backend = subclass_attention_backend(
            f"SparseSightStage{stage + 1}", inner, self.builder(inner.get_builder_cls(), stage)
        )

    def builder(self, inner: Any, stage: int) -> Any:
        """A metadata builder that leaves with its result what it was built from, and the builders of all stages."""
        shared = self

        class StageBuilder(inner):
            supports_update_block_table = False  # the runner calls `build` for every group

            def build(
                self, common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any
            ) -> Any:
                shared.builders[stage] = self
                if shared.common is not common_attn_metadata:
                    built = super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
                    built.sparsesight_common = shared.common = common_attn_metadata
                    built.sparsesight_builders = shared.builders
                    shared.built = built
                return shared.built

            def build_stage(self, common: Any) -> Any:
                return super().build(0, common)

        return StageBuilder


def step_of(runner: Any) -> Step:
    """The requests of the step that a runner is about to compute."""
    batch = runner.input_batch
    count = batch.num_reqs
    return Step(
        query=np.diff(runner.query_start_loc.np[: count + 1]).astype(np.int64),
        computed=batch.num_computed_tokens_cpu[:count].astype(np.int64),
        prompt=batch.num_prompt_tokens[:count].astype(np.int64),
        block=batch.block_table[0].get_numpy_array()[:count, 0].astype(np.int64),
    )


def install() -> None:
    """Let the runner tell a sparsified model of every step; other models are run as before."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    inner = GPUModelRunner._model_forward
    if hasattr(inner, "sparsesight"):
        return

    @wraps(inner)
    def _model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        pruner = pruner_of(self.get_model())
        if pruner is None:
            return inner(self, *args, **kwargs)
        context = get_forward_context()
        names = self.input_batch.req_ids

        def extra_args(r: int) -> Any:
            return getattr(self.requests[names[r]].sampling_params, "extra_args", None)

        pruner.begin(step_of(self), extra_args, lambda r: str(names[r]), context)
        if pruner.active is not None:
            # The compiled decoder has no place for a changing number of rows.
            context.skip_compiled = True
            context.cudagraph_runtime_mode = CUDAGraphMode.NONE
        try:
            return inner(self, *args, **kwargs)
        finally:
            pruner.end()

    _model_forward.sparsesight = True  # type: ignore[attr-defined]
    GPUModelRunner._model_forward = _model_forward


def pruner_of(model: nn.Module) -> Pruner | None:
    """The pruner of a model, if it has one."""
    return getattr(model, "pruner", None)
