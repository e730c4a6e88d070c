"""Names and options that editors and type checkers know are those that the methods have."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from sparsesight import METHODS, SparseSightError, SparseVLMPlus, sparsify
from sparsesight.methods import SUFFIX
from sparsesight.methods.options import MethodName, MethodOptions
from tests.hf import tiny

ROOT = Path(__file__).parents[2]
CALLS = """
from sparsesight import SparseVLMPlus, sparsify
from torch import nn

def right(model: nn.Module, method: SparseVLMPlus) -> None:
    sparsify(model)
    sparsify(model, retain=64)
    sparsify(model, "fastv", retain=0.5, layers=(1,))
    sparsify(model, "sparsevlm:published", retain=(300, 200, 110))
    sparsify(model, method, timing=True)

def wrong(model: nn.Module) -> None:
    sparsify(model, retian=64)
    sparsify(model, "fastvlm")
    sparsify(model, retain="64")
    sparsify(model, "holov", crops="four")
"""


def test_names_are_those_of_the_methods() -> None:
    published = [f"{name}{SUFFIX}" for name, kind in METHODS.items() if kind.published_at is not None]
    assert list(get_args(MethodName)) == [*METHODS, *published]


def test_options_are_the_fields_of_the_methods() -> None:
    every = {field.name: str(field.type) for kind in METHODS.values() for field in fields(kind)}
    assert every.pop("retain") == "Retain"
    assert {name: kind.__forward_arg__ for name, kind in MethodOptions.__annotations__.items()} == every


def test_a_type_checker_sees_wrong_words(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path),
    ]
    found = subprocess.run([*command, str(file)], capture_output=True, text=True, cwd=ROOT).stdout
    lines = CALLS.splitlines()
    first = lines.index("def wrong(model: nn.Module) -> None:") + 2
    assert {int(line.split(":")[1]) for line in found.splitlines() if "error:" in line} == set(
        range(first, first + 4)
    ), found
    assert '"retian"' in found


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
