"""The beginning of an engine step, whichever model runner computes it."""

from __future__ import annotations

from collections.abc import Callable

from .pruner import Pruner
from .step_plan import Step


def begin_step(pruner: Pruner, step: Step, names: Callable[[int], str]) -> None:
    """Plan a step within vLLM's forward context; one that prunes runs uncompiled."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    pruner.begin(step, names, context, replays())
    if pruner.active is not None:
        # The compiled decoder has no place for a changing number of rows.
        context.skip_compiled = True
        context.cudagraph_runtime_mode = CUDAGraphMode.NONE


def replays() -> bool:
    """Whether the coming step would replay a graph in which attention is recorded."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    return bool(get_forward_context().cudagraph_runtime_mode == CUDAGraphMode.FULL)
