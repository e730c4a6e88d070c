"""Everything that is added to a model's modules, recorded so that it can be removed, and left out of copies."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import SparseSightError

ABSENT = object()
MARK = "_sparsesight_hooks"  # attribute of a decoder while hooks are installed on it
_numbers = itertools.count()
COLLECTING = "transformers.utils.output_capturing"
# Where torch keeps hooks; the functions, in the last, go last: an interrupted removal finds the rest by them.
HOOK_DICTS = {
    "forward_pre": ("_forward_pre_hooks_with_kwargs", "_forward_pre_hooks"),
    "forward": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_hooks"),
}


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, never traced by ``torch.compile``; the reason ends the error of one that may not cut its graph."""
    return torch.compiler.disable(
        function,
        reason="fullgraph=True, strict torch.export: SparseSight drops tokens between decoder layers, where a graph "
        "has to be cut; use torch.compile(model) without fullgraph, or restore() the model first",
    )


def noticed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same ``forward`` as an object that compilers have not seen.

    A compiled module stays in use when hooks are added or removed: ``torch.compile`` does not look at them. It does
    look at a ``forward`` of the instance's own, and which function that is.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    own = FunctionType(call.__code__.replace(), call.__globals__, "forward", None, call.__closure__)
    return wraps(forward)(own)


class Change(Protocol):
    """Something that is done to an object of others.

    An interrupt may come at any line of either: what was half made or half undone can be undone again.
    """

    def make(self) -> None:
        """Do it."""

    def undo(self) -> None:
        """Take it back; does nothing where it was not made, or is undone."""


@dataclass(frozen=True, eq=False)
class Hook:
    """A hook on a module; ``kind`` is ``"forward"`` or ``"forward_pre"``."""

    module: nn.Module
    kind: str
    function: Callable[..., Any]
    how: dict[str, Any]

    def make(self) -> None:
        getattr(self.module, f"register_{self.kind}_hook")(self.function, **self.how)

    def undo(self) -> None:
        *marks, hooks = (getattr(self.module, name) for name in HOOK_DICTS[self.kind])
        # By the function: the handle that torch returns is lost if an interrupt comes before it is kept.
        for key in [key for key, function in hooks.items() if function is self.function]:
            for mark in marks:
                mark.pop(key, None)
            hooks.pop(key, None)


@dataclass(frozen=True, eq=False)
class Attribute:
    """An attribute of an instance; another value that was put in its place since is left there."""

    module: nn.Module
    name: str
    value: Any
    before: Any

    def make(self) -> None:
        vars(self.module)[self.name] = self.value

    def undo(self) -> None:
        if vars(self.module).get(self.name, ABSENT) is not self.value:
            return
        if self.before is ABSENT:
            vars(self.module).pop(self.name, None)
        else:
            vars(self.module)[self.name] = self.before


class Installation:
    """Hooks and attributes of ours on modules that are not.

    As long as they are there, ``copy.deepcopy``, ``pickle`` and ``torch.save`` of the model, or of any part of it, see
    the modules without them: a copy is the plain model, and a file needs no SparseSight to be read.
    """

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self.number = next(_numbers)  # no other has it, in this process

    def __bool__(self) -> bool:
        return bool(self._changes)

    def make(self, change: Change) -> None:
        """Make a change, to be taken back by :meth:`remove`."""
        self._changes.append(change)  # first, so that an interrupt does not lose it
        change.make()

    def hook(self, module: nn.Module, kind: str, function: Callable[..., Any], **how: Any) -> None:
        """Register a hook; ``kind`` is ``"forward"`` or ``"forward_pre"``.

        ``torch.compile`` cuts its graphs there: a hook reads what is known of this forward only, and what a compiler
        took for constant would be wrong in the next one.
        """
        self._touch(module)
        if not any(x.name == "forward" for x in self._attributes(module)):
            forward: Callable[..., Any] = module.forward
            self._set(module, "forward", noticed(forward))
        self.make(Hook(module, kind, uncompiled(function), how))

    def attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of the instance. The first one that is set is the last that goes."""
        self._set(module, name, value)
        self._touch(module)

    def foreign_hooks(self, module: nn.Module) -> bool:
        """Whether a module has forward hooks that were not added here, other than those by which transformers collects
        hidden states while somebody asks for them.
        """
        ours = self._functions(module)
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        return any(id(hook) not in ours and getattr(hook, "__module__", "") != COLLECTING for hook in hooks)

    def foreign_attribute(self, module: nn.Module, name: str) -> bool:
        """Whether an instance has an attribute of its own that was not set here."""
        ours = next((x for x in self._attributes(module) if x.name == name), None)
        return name in vars(module) if ours is None else ours.before is not ABSENT

    def remove(self) -> None:
        """Take everything back, the last first; safe to call twice, and again after an interrupt."""
        while self._changes:
            self._changes[-1].undo()
            self._changes.pop()  # forgotten only once it is undone

    def _functions(self, module: nn.Module) -> set[int]:
        return {id(x.function) for x in self._changes if isinstance(x, Hook) and x.module is module}

    def _attributes(self, module: nn.Module) -> list[Attribute]:
        return [x for x in self._changes if isinstance(x, Attribute) and x.module is module]

    def _touch(self, module: nn.Module) -> None:
        if not any(x.name == "__getstate__" for x in self._attributes(module)):
            self._set(module, "__getstate__", partial(self._plain_state, module))

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        self.make(Attribute(module, name, value, vars(module).get(name, ABSENT)))

    def _plain_state(self, module: nn.Module) -> dict[str, Any]:
        """The module's state as it would be without us."""
        state: dict[str, Any] = dict(type(module).__getstate__(module))
        ours = self._functions(module)
        for names in HOOK_DICTS.values():
            gone = {key for key, hook in state[names[-1]].items() if id(hook) in ours}
            for name in names:
                state[name] = type(state[name])((k, v) for k, v in state[name].items() if k not in gone)
        for change in reversed(self._attributes(module)):
            state.pop(change.name, None)
            if change.before is not ABSENT:
                state[change.name] = change.before
        return state


class Installed(Protocol):
    """What is installed on a decoder; ``call`` holds the calling thread's data for its next prompt."""

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
