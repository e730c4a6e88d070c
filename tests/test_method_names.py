"""Names and options that editors and type checkers know are those that the methods have."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from sparsesight import METHODS, SparseSightError, SparseVLMPlus, sparsify
from sparsesight.method_names import MethodName, MethodOptions
from sparsesight.methods import SUFFIX
from tests.hf import tiny


def test_names_are_those_of_the_methods() -> None:
    published = [f"{name}{SUFFIX}" for name, kind in METHODS.items() if kind.published_at is not None]
    assert list(get_args(MethodName)) == [*METHODS, *published]


def test_options_are_the_fields_of_the_methods() -> None:
    every = {field.name: str(field.type) for kind in METHODS.values() for field in fields(kind)}
    assert every.pop("retain") == "Retain"
    assert {name: kind.__forward_arg__ for name, kind in MethodOptions.__annotations__.items()} == every


def test_at_run_time_they_are_refused_as_ever() -> None:
    model = tiny.model()
    with pytest.raises(SparseSightError, match=r"retian.*retain"):
        sparsify(model, retian=3)  # type: ignore[call-arg]
    with pytest.raises(SparseSightError, match="go with a method name"):
        sparsify(model, SparseVLMPlus(), retain=3)
    with sparsify(model, "fastv", retain=7) as run:
        assert run.method.retain == 7
    with sparsify(model, "fastv") as run:
        assert run.method.retain == METHODS["fastv"]().retain
