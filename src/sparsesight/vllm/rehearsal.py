"""vLLM measures how much memory a step takes, before it allocates the cache: it sees a step that prunes as well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from .planner import NOTHING, RequestPlan
from .pruner import Pruner
from .step_plan import Step
from .step_size import TEXT


def install(model: nn.Module, pruner: Pruner) -> None:
    """Let vLLM's profiling run be followed by one that prunes. It is the first forward, without attention metadata.

    The second runs uncompiled, as every step that prunes, and nothing of it is stored or returned. A model whose first
    forward is a step of requests is not profiled.
    """

    def after(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context, override_forward_context

        handle.remove()
        context = get_forward_context()
        if context.attn_metadata is not None:
            return
        plan = longest(pruner, given["positions"].shape[-1])
        if not plan.regions:
            return
        rows = np.array([len(plan.visual)], np.int64)
        pruner.rehearse(Step(rows, np.zeros_like(rows), [plan]))
        own = replace(context, slot_mapping={}, skip_compiled=True, cudagraph_runtime_mode=CUDAGraphMode.NONE)
        try:
            with override_forward_context(own):
                module.forward(*args, **given)
        finally:
            pruner.end()

    handle = model.register_forward_hook(after, with_kwargs=True)


def longest(pruner: Pruner, rows: int) -> RequestPlan:
    """What is pruned of a prompt that fills a step: visual tokens, and the text that judges them.

    A server that keeps every token by default prunes requests that ask for it: then half of the visual tokens.
    """
    from vllm.multimodal.inputs import PlaceholderRange

    visual = rows - min(TEXT, rows // 2)
    for asked in (None, {"sparsesight_retain": "50%"}):
        place = PlaceholderRange(offset=0, length=visual)
        plan = pruner.planner.request_plan([place], None, rows, asked)
        if plan.regions:
            return plan
    return NOTHING
