"""Options of vLLM that pruning needs and the user has left open, for engines and ``serve`` alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """An option of vLLM, and the value that it needs."""

    field: str  # of ``EngineArgs``; a dot leads into a config
    value: Any
    words: tuple[str, ...]  # the same as arguments of vLLM's server
    why: str


def settings(chosen: Mapping[str, Any], graphs: bool) -> list[Setting]:
    """What to set beside a user's options.

    Args:
        chosen: options that the user has set, by the names of their fields.
        graphs: whether vLLM would record CUDA graphs on this machine.
    """
    found = []
    if "block_size" not in chosen:
        size = 16 if graphs else 32  # vLLM's kernels for CPUs take multiples of 32 only
        why = "pruning removes whole blocks of keys, and small ones keep fewer tokens beyond the budget"
        found.append(Setting("block_size", size, ("--block-size", str(size)), why))
    if (
        graphs
        and not chosen.get("enforce_eager")
        and "compilation_config" not in chosen
        and int(chosen.get("optimization_level", 2)) > 1  # below there are no full graphs
    ):
        mode = "PIECEWISE"
        words = ("--compilation-config", json.dumps({"cudagraph_mode": mode}))
        why = "full CUDA graphs would replay the attention metadata of unpruned steps"
        found.append(Setting("compilation_config.cudagraph_mode", mode, words, why))
    return found


def complete(arguments: Any, graphs: bool) -> list[Setting]:
    """Set in an engine's arguments (vLLM's ``EngineArgs``) what the user has left open, and return what that was."""
    given = {
        "block_size": arguments.block_size,
        "compilation_config": arguments.compilation_config.cudagraph_mode,
        "enforce_eager": arguments.enforce_eager,
        "optimization_level": arguments.optimization_level,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    found = settings(chosen, graphs)
    for setting in found:
        part, _, name = setting.field.rpartition(".")
        if part:  # the user's own config object stays as it is
            setattr(arguments, part, deepcopy(getattr(arguments, part)))
        at = getattr(arguments, part) if part else arguments
        wanted = setting.value
        if name == "cudagraph_mode":
            from vllm.config import CUDAGraphMode

            wanted = CUDAGraphMode[wanted]
        setattr(at, name, wanted)
    return found


def records_graphs() -> bool:
    """Whether vLLM records CUDA graphs on this machine."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cuda_alike())
