"""The beginning of an engine step, whichever model runner computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .planner import Step
from .pruner import Pruner
from .state import Counts


def room_of(kv_cache_config: Any, tokens: Sequence[Any]) -> Counts | None:
    """The room of each stage, [1 + stages, r], from that of each of vLLM's KV cache groups; None without ``kv_groups``.

    Args:
        kv_cache_config: vLLM's.
        tokens: for which each group has blocks, [r].
    """
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    if not all(hasattr(spec, "stage") for spec in specs):
        return None
    stages: list[int] = [spec.stage for spec in specs]
    room = np.full((1 + max(stages), len(tokens[0])), np.iinfo(np.int64).max)
    for stage, own in zip(stages, tokens, strict=True):
        np.minimum(room[stage], own, out=room[stage])
    return room


def begin_step(
    pruner: Pruner, step: Step, extra_args: Callable[[int], Any], names: Callable[[int], str]
) -> None:
    """Plan a step within vLLM's forward context; one that prunes runs uncompiled."""
    from vllm.config import CUDAGraphMode
    from vllm.forward_context import get_forward_context

    context = get_forward_context()
    pruner.begin(step, extra_args, names, context)
    if pruner.active is not None:
        # The compiled decoder has no place for a changing number of rows.
        context.skip_compiled = True
        context.cudagraph_runtime_mode = CUDAGraphMode.NONE
