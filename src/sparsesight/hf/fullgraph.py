"""``fullgraph=True`` is refused as soon as it is known: tokens are dropped where a graph would have to be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import getclosurevars, isfunction
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError


def refuse_fullgraph(modules: Iterable[nn.Module]) -> None:
    """Refuse modules that were compiled in place with ``fullgraph=True``, as ``compile()`` or their ``forward``.

    Raises:
        UnsupportedModelError: naming the first.
    """
    for module in modules:
        for call in (module._compiled_call_impl, vars(module).get("forward")):
            # Of a compiled function, torch's own settings are among what it closes over.
            closed = getclosurevars(call).nonlocals.values() if isfunction(call) else ()
            if any(getattr(x, "fullgraph", None) is True for x in closed):
                raise no_cut(f"model={type(module).__name__}")


def without_fullgraph(module: nn.Module) -> Callable[..., None]:
    """The module's ``compile()``, which refuses ``fullgraph=True`` at once rather than when it first runs."""
    compile_ = module.compile

    @wraps(compile_)
    def call(*args: Any, **kwargs: Any) -> None:
        if kwargs.get("fullgraph"):
            raise no_cut(f"model={type(module).__name__}")
        compile_(*args, **kwargs)

    return call


def no_cut(name: str) -> UnsupportedModelError:
    """The error about a model that is compiled so."""
    return UnsupportedModelError(
        f"{name}: fullgraph=True allows no cut between decoder layers, where tokens are dropped; use "
        "torch.compile(model) without fullgraph"
    )
