"""A guard against waiting for the device: within a decoder's layers, reading a tensor's values raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "numpy")


class HostRead(RuntimeError):
    pass


@pytest.fixture
def forbid_reads_in_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Called with a first and a last module, forbids reads from the entrance of one to the exit of the other.

    Hooks that are already on them are within.
    """
    inside = False

    def enter(*args: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*args: Any) -> None:
        nonlocal inside
        inside = False

    def guarded(name: str, real: Any) -> Any:
        def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if inside:
                raise HostRead(name)
            return real(self, *args, **kwargs)

        return read

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, guarded(name, getattr(torch.Tensor, name)))

    def install(first: nn.Module, last: nn.Module) -> None:
        handles.append(first.register_forward_pre_hook(enter, prepend=True))
        handles.append(last.register_forward_hook(leave))

    handles: list[Any] = []
    yield install
    for handle in handles:
        handle.remove()
