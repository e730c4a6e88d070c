"""Methods, budgets and requests as anybody may write them: a valid value or one bounded sentence, nothing else."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import sparsesight
from sparsesight import METHODS, SparseSightError, SparseVLMPlus
from sparsesight.commands import options
from sparsesight.core.retain import MAX_TOKENS, parse_retain
from sparsesight.methods import from_dict, make_method, parse
from sparsesight.vllm.config import asked_of, method_of

LONGEST = 2000  # characters of a message


def deep(levels: int) -> list[Any]:
    """A list within a list within a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


WRITTEN = {
    "two calls": "sparsevlm+(retain=64)(retain=3)",
    "twice": "sparsevlm+(retain=64, retain=3)",
    "attribute": "sparsevlm+(retain=64).real",
    "comment": "sparsevlm+(retain=64) #)",
    "condition": "sparsevlm+(retain=64) if 1 else f()",
    "positional": "sparsevlm+(64)",
    "unpacked": "sparsevlm+(**{'retain': 3})",
    "starred": "sparsevlm+(*(3,))",
    "computed": "sparsevlm+(retain=8*8)",
    "added": "sparsevlm+(retain=1+2j)",
    "set": "sparsevlm+(layers={2, 6})",
    "nested": "sparsevlm+(layers=((2,), (6,)))",
    "call": "sparsevlm+(retain=__import__('os').getpid())",
    "minus signs": f"sparsevlm+(retain={'-' * 3000}64)",
    "few minus signs": "sparsevlm+(retain=--64)",
    "brackets": f"sparsevlm+(layers={'(' * 1000}2{')' * 1000})",
    "not not": f"sparsevlm+(add={'not ' * 900}True)",
    "digits": f"sparsevlm+(retain={'9' * 4000})",
    "more digits": f"sparsevlm+(retain={'9' * 5000})",
    "infinite": "sparsevlm+(retain=1e999)",
    "flag": "sparsevlm+(retain=True)",
    "bytes": "sparsevlm+(positions=b'original')",
    "long": "x" * 1_000_000,
    "null byte": "fastv\0",
    "null byte inside": "fastv(retain='\0')",
    "escape": "fastv\x1b[31m",
    "full width name": "ｆastv",
    "full width option": "fastv(ｒetain=64)",
    "name of an argument": "fastv(method=3)",
    "self": "fastv(self=3)",
    "bidi": "fastv\u202e",
    "long chain": "fastv>" * 2000,
    "empty": "",
    "arrow": ">",
    "nothing": None,
    "number": 64,
    "list": ["fastv"],
}


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SparseSightError) as caught:
        call(*args, **kwargs)
    said = str(caught.value)
    assert 0 < len(said) < LONGEST + 2 * 4096
    return said


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_no_method_is_refused(case: str) -> None:
    refused(parse, WRITTEN[case])


# What reads the command line, servers, requests, configs and files.
READERS = (
    "methods/__init__.py",
    "core/budget.py",
    "core/retain.py",
    "commands/*.py",
    "files.py",
    "terminal.py",
    "images.py",
    "compare.py",
    "hf/loading.py",
    "hf/checkpoint.py",
    "checkpoint_limits.py",
    "eval/**/*.py",
    "vllm/config.py",
    "vllm/settings.py",
    "vllm/frontend.py",
    "vllm/validation.py",
    "vllm/serving.py",
)


@pytest.mark.parametrize("pattern", READERS)
def test_checks_do_not_go_with_the_asserts(pattern: str) -> None:
    """``python -O`` takes asserts away; what comes from outside is checked all the same."""
    files = list(Path(sparsesight.__file__).parent.glob(pattern))
    assert files
    for file in files:
        asserts = [x for x in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(x, ast.Assert)]
        assert not asserts, f"{file}:{asserts[0].lineno}"


def test_what_is_written_is_read_back() -> None:
    for text in (
        "fastv(retain=0.5, layers=[1])",
        "dart ( text_pivots = 0,\n retain = (3, 2) )",
        "tome > fastv",
    ):
        method = parse(text)
        assert parse(str(method)) == method


HOSTILE: dict[str, Any] = {
    "flag": True,
    "text": "x",
    "long text": "x" * 1_000_000,
    "nan": float("nan"),
    "infinite": float("inf"),
    "minus infinite": float("-inf"),
    "huge": 10**400,
    "unprintable": 10**5000,
    "minus huge": -(10**5000),
    "negative": -1,
    "bytes": b"x",
    "complex": 1j,
    "list": [],
    "text list": ["x"],
    "huge list": [10**5000],
    "many": [1] * 100_000,
    "nan list": [float("nan")],
    "object": {},
    "in a list": [{}],
    "deep": deep(100_000),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_every_method(name: str) -> None:
    for field in dataclasses.fields(METHODS[name]):
        for case, value in HOSTILE.items():
            try:
                method = from_dict({"method": name, field.name: value})
            except SparseSightError as error:
                assert len(str(error)) < LONGEST, (field.name, case)
            else:  # it has a meaning: then it can be planned with, written and read back
                assert parse(str(method)) == method, (field.name, case)
                assert not isinstance(value, float | dict | bytes | complex), (field.name, case)


NO_METHODS: list[Any] = [
    None,
    [],
    "fastv",
    {},
    {"method": None},
    {"method": ["fastv"]},
    {"method": {}},
    {"method": "x" * 1_000_000},
    {1: 2},
    {"method": "fastv", 1: 2},
    {"method": "fastv", "self": 1},
    {"method": "fastv", "name": "x"},
    {"method": "compose"},
    {"method": "compose", "parts": None},
    {"method": "compose", "parts": "tome"},
    {"method": "compose", "parts": [1, 2]},
    {"method": "compose", "parts": deep(5000)},
    {"method": "compose", "parts": [{"method": "tome"}, {"method": "fastv"}], "retain": 3},
    {"method": "compose", "parts": [{"method": "compose", "parts": []}, {"method": "fastv"}]},
    {"method": "fastv:published", "layers": [1]},
    {"method": "fastv:published", "retain": [10**5000]},
    {"method": "fastv:published", "retain": {}},
]


@pytest.mark.parametrize("case", range(len(NO_METHODS)))
def test_data_that_is_no_method(case: int) -> None:
    data = NO_METHODS[case]
    refused(from_dict, data)
    if isinstance(data, dict) and "method" in data:
        refused(method_of, {"sparsesight": data})


@pytest.mark.parametrize("case", HOSTILE)
def test_a_request_asks_for_a_budget_or_is_refused(case: str) -> None:
    refused(asked_of, SparseVLMPlus(64), (0, 1, 3), {"sparsesight_retain": HOSTILE[case]})


@pytest.mark.parametrize("name", ["sparsesight_retian", "sparsesight_", "sparsesight_" + "x" * 100_000])
def test_a_request_with_an_unknown_argument(name: str) -> None:
    refused(asked_of, SparseVLMPlus(64), (0, 1, 3), {name: 3})


def test_a_number_of_a_request_has_a_limit() -> None:
    assert asked_of(SparseVLMPlus(64), (0,), {"sparsesight_retain": MAX_TOKENS}).method is not None
    for value in (MAX_TOKENS + 1, 1e300, json.loads("Infinity"), json.loads("NaN"), "1e400"):
        assert "sparsesight_retain" in refused(
            asked_of, SparseVLMPlus(64), (0,), {"sparsesight_retain": value}
        )


@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 5000 + "%", "1," * 3 + "9" * 5000, "0" * 5000, "٣", "1e5", "nan"]
)
def test_numbers_on_the_command_line(text: str) -> None:
    refused(parse_retain, text)
    refused(options.parse_layers, text)
    refused(options.parse_counts, text, "--counts")


def test_a_budget_in_brackets_of_an_unknown_method() -> None:
    refused(make_method, "fastv", retain=HOSTILE["unprintable"])
