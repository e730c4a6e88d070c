"""What a type checker says of calls of :func:`sparsify`. ``make types`` reads this file; nothing runs it.

Each wrong call is marked with the error that it must give: under ``strict``, mypy reports a mark that is not needed.
"""

from __future__ import annotations

from torch import nn

from sparsesight import SparseVLMPlus, sparsify


def right(model: nn.Module, method: SparseVLMPlus) -> None:
    sparsify(model)
    sparsify(model, retain=64)
    sparsify(model, "fastv", retain=0.5, layers=(1,))
    sparsify(model, "sparsevlm:published", retain=(300, 200, 110))
    sparsify(model, method, timing=True)


def wrong(model: nn.Module) -> None:
    sparsify(model, retian=64)  # type: ignore[call-arg]
    sparsify(model, "fastvlm")  # type: ignore[arg-type]
    sparsify(model, retain="64")  # type: ignore[arg-type]
    sparsify(model, "holov", crops="four")  # type: ignore[arg-type]
