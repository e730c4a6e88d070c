"""Finds and removes the hooks on a model, with or without its handle."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from ..errors import SparseSightError

MARK = "_sparsesight_hooks"  # attribute of a decoder while hooks are installed on it


class Installed(Protocol):
    """What sparsification put on a decoder; ``call`` holds what the calling thread said of its next prompt."""

    call: Any

    def remove(self) -> None:
        """Remove everything; safe to call twice."""


def restore(model: nn.Module) -> None:
    """Restore a model exactly as it was before :func:`sparsify`, even if the handle is lost or was interrupted.

    It does nothing if the model is not sparsified, and may be called again if it was interrupted itself.

    Args:
        model: the model that was given to :func:`sparsify`, or one that contains its decoder: the wrapper of PEFT or
            ``torch.compile``, or ``DistributedDataParallel``.

    Raises:
        SparseSightError: it is not a module.
    """
    if not isinstance(model, nn.Module):
        raise SparseSightError(f"restore: got {type(model).__name__}; pass the model that was sparsified")
    for hooks in installed_hooks(model):
        hooks.remove()


def installed_hooks(model: nn.Module) -> list[Installed]:
    """The hooks on the decoders in a model."""
    return [vars(module)[MARK] for module in model.modules() if MARK in vars(module)]
