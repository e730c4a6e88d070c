"""Counts torch operations, which are the same on every machine, so that additional work shows without timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that pick rows or single numbers out of a tensor, or put them into one.
GATHERS = {
    *("gather", "index", "index_select", "take", "take_along_dim", "embedding", "masked_select"),
    *("scatter", "scatter_", "scatter_add", "index_put", "index_put_", "index_copy", "masked_scatter"),
}


@dataclass
class Count:
    """Operations of one part of a run.

    Attributes:
        operations: operators that torch dispatched.
        kernels: those that compute something; the others are views. On CUDA, roughly the kernels that are launched.
        made: bytes of new storages.
        gathered: bytes that gathers and scatters wrote.
        names: count of each operator.
    """

    operations: int = 0
    kernels: int = 0
    made: int = 0
    gathered: int = 0
    names: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Count) -> Count:
        names = {k: self.names.get(k, 0) + other.names.get(k, 0) for k in {**self.names, **other.names}}
        numbers = {
            f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "names"
        }
        return Count(**numbers, names=names)


class Operations(TorchDispatchMode):
    """A context manager that counts the operations of this thread by part.

    Args:
        part: called at each operation; returns the part that it belongs to.

    Attributes:
        parts: counts by part.
    """

    def __init__(self, part: Callable[[], str] = lambda: "") -> None:
        super().__init__()
        self.part = part
        self.parts: dict[str, Count] = {}

    @property
    def total(self) -> Count:
        """All parts together."""
        return sum(self.parts.values(), Count())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            x.untyped_storage()._cdata for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        count = self.parts.setdefault(self.part(), Count())
        name = func.overloadpacket.__name__
        count.operations += 1
        count.names[name] = count.names.get(name, 0) + 1
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        new = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in results}
        new = {key: size for key, size in new.items() if key not in given}
        count.made += sum(new.values())
        count.kernels += bool(new) or func._schema.is_mutable
        if name in GATHERS:
            count.gathered += sum(x.numel() * x.element_size() for x in results)
        return out
