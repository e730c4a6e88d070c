"""Token-reduction methods. One published method is one short file and one row of :data:`METHODS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import SparseSightError
from .base import Method
from .random import Random
from .sparsevlm import SparseVLM
from .sparsevlm_plus import SparseVLMPlus

METHODS: dict[str, type[Method]] = {m.name: m for m in (SparseVLM, SparseVLMPlus, Random)}


def make_method(method: Method | str, **options: Any) -> Method:
    """A method from its name and options, or the instance itself.

    Raises:
        SparseSightError: unknown name or option (the message lists the known ones), or options beside an instance.
    """
    if isinstance(method, Method):
        if options:
            raise SparseSightError(
                f"options {sorted(options)} go with a method name; give them to {method!r} instead"
            )
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise SparseSightError(f"method={method!r} is unknown; known are {sorted(METHODS)}")
    kind = METHODS[method]
    known = [f.name for f in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SparseSightError(f"method {method!r} has no option {unknown}; it has {known}")
    return kind(**options)


def from_dict(data: Mapping[str, Any]) -> Method:
    """The inverse of :meth:`Method.to_dict`.

    Raises:
        SparseSightError: as :func:`make_method`.
    """
    options = dict(data)
    return make_method(options.pop("method", ""), **options)


__all__ = ["METHODS", "Method", "Random", "SparseVLM", "SparseVLMPlus", "from_dict", "make_method"]
