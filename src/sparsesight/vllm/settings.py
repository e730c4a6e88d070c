"""Options of vLLM that pruning needs and the user has left open, for engines and ``serve`` alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """An option of vLLM, and the value that it needs."""

    field: str  # of ``EngineArgs``
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
    return found


def complete(arguments: Any, graphs: bool) -> list[Setting]:
    """Set in an engine's arguments (vLLM's ``EngineArgs``) what the user has left open, and return what that was."""
    chosen = {} if arguments.block_size is None else {"block_size": arguments.block_size}
    found = settings(chosen, graphs)
    for setting in found:
        setattr(arguments, setting.field, setting.value)
    return found


def records_graphs() -> bool:
    """Whether vLLM records CUDA graphs on this machine."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cuda_alike())
