"""Everything that is added to a model's modules: one record from which it is taken back, and left out of copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

ABSENT = object()
COLLECTING = "transformers.utils.output_capturing"


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, never traced by ``torch.compile``."""
    return torch.compiler.disable(function, reason="SparseSight prunes between decoder layers")


class Installation:
    """Hooks and attributes of ours on modules that are not.

    As long as they are there, ``copy.deepcopy``, ``pickle`` and ``torch.save`` of the model, or of any part of it, see
    the modules without them: a copy is the plain model, and a file needs no SparseSight to be read.
    """

    def __init__(self) -> None:
        self._hooks: list[tuple[nn.Module, Any]] = []  # with the handle torch gave
        self._attributes: list[tuple[nn.Module, str, Any]] = []  # with the value before

    def __bool__(self) -> bool:
        return bool(self._hooks or self._attributes)

    def hook(self, module: nn.Module, kind: str, function: Callable[..., Any], **how: Any) -> None:
        """Register a hook; ``kind`` is ``"forward"`` or ``"forward_pre"``.

        ``torch.compile`` cuts its graphs there: a hook reads what is known of this forward only, and what a compiler
        took for constant would be wrong in the next one.
        """
        self._touch(module)
        function = uncompiled(function)
        self._hooks.append((module, getattr(module, f"register_{kind}_hook")(function, **how)))

    def attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of the instance."""
        self._touch(module)
        self._set(module, name, value)

    def foreign_hooks(self, module: nn.Module) -> bool:
        """Whether a module has forward hooks that were not added here, other than those by which transformers collects
        hidden states while somebody asks for them.
        """
        ours = {handle.id for owner, handle in self._hooks if owner is module}
        hooks = (*module._forward_hooks.items(), *module._forward_pre_hooks.items())
        return any(i not in ours and getattr(hook, "__module__", "") != COLLECTING for i, hook in hooks)

    def remove(self) -> None:
        """Take everything back, the last first; safe to call twice."""
        while self._hooks:
            self._hooks.pop()[1].remove()
        while self._attributes:
            module, name, before = self._attributes.pop()
            if before is ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = before

    def _touch(self, module: nn.Module) -> None:
        if not any(m is module and name == "__getstate__" for m, name, _ in self._attributes):
            self._set(module, "__getstate__", partial(self._plain_state, module))

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        self._attributes.append((module, name, vars(module).get(name, ABSENT)))
        vars(module)[name] = value

    def _plain_state(self, module: nn.Module) -> dict[str, Any]:
        """The module's state as it would be without us."""
        state: dict[str, Any] = dict(type(module).__getstate__(module))
        ours = {handle.id for owner, handle in self._hooks if owner is module}
        for key, value in state.items():
            if key.startswith("_forward") and isinstance(value, dict):
                state[key] = type(value)((k, v) for k, v in value.items() if k not in ours)
        for owner, name, before in reversed(self._attributes):
            if owner is module:
                state.pop(name, None)
                if before is not ABSENT:
                    state[name] = before
        return state
