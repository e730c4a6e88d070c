"""What holds for every method: plain data, clear errors, exact counts, stable ties, batch = alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from sparsesight import METHODS, BudgetError, Method, Random, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.methods import from_dict, make_method

INSTANCES: list[Method] = [
    *(kind() for kind in METHODS.values()),
    *(kind(retain) for kind in METHODS.values() for retain in (1, 1.0, 0.25, 192, (30, 20, 10))),
    *(kind(64, (1, 3), "compact", True) for kind in METHODS.values()),
    SparseVLM.published(),
    SparseVLM.published(64),
    SparseVLM.v1_0(),
    SparseVLM.v1_0(9, 6),
    SparseVLM.video(),
    SparseVLM(recycle=0.0),
    SparseVLMPlus.published(),
    SparseVLMPlus.published(96),
    SparseVLMPlus(heads=1.0, gravity_floor=None),
    SparseVLMPlus(heads=1),
    Random(seed=-3),
]


@pytest.mark.parametrize("method", INSTANCES, ids=repr)
def test_json_and_back(method: Method) -> None:
    data = json.loads(json.dumps(method.to_dict()))
    again = from_dict(data)
    assert again == method and hash(again) == hash(method)
    assert type(again) is type(method) and repr(again) == repr(method)  # 1 and 1.0 are equal, not the same
    assert from_dict(method.to_dict()) == method
    assert data["method"] == method.name and "method" in data


@pytest.mark.parametrize("kind", METHODS.values())
def test_methods_are_frozen(kind: type[Method]) -> None:
    method = kind()
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, getattr(method, field.name))


@pytest.mark.parametrize(("name", "kind"), METHODS.items())
def test_the_table_has_every_method_under_its_name(name: str, kind: type[Method]) -> None:
    assert kind.name == name
    assert make_method(name, retain=32) == kind(32)
    assert make_method(kind(32)) == kind(32)


def test_numbers_of_numpy_and_lists_become_plain() -> None:
    count: Any = np.int64(64)
    ratio: Any = np.float32(0.5)
    listed: Any = [np.int64(30), 20]
    for retain, plain in ((count, 64), (ratio, 0.5), (listed, (30, 20))):
        for kind in METHODS.values():
            method = kind(retain, layers=[np.int32(1), 3])  # type: ignore[arg-type]
            assert method == kind(plain, (1, 3)) and type(method.retain) is type(plain)
            assert from_dict(json.loads(json.dumps(method.to_dict()))) == method


# -- errors ------------------------------------------------------------------------------------------------------


def test_unknown_names() -> None:
    for name in ("sparsevlm++", "", None, 3, ["random"]):
        with pytest.raises(SparseSightError, match="'random', 'scope', 'sparsevlm', 'sparsevlm\\+'") as error:
            make_method(name)  # type: ignore[arg-type]
        assert f"method={name!r} is unknown" in str(error.value)
    with pytest.raises(SparseSightError, match="known are"):
        from_dict({"retain": 64})


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options(name: str) -> None:
    with pytest.raises(SparseSightError, match=r"has no option \['depth', 'retian'\].*'retain', 'layers'"):
        make_method(name, retian=64, depth=1)
    with pytest.raises(SparseSightError, match=r"options \['retain'\] go with a method name"):
        make_method(METHODS[name](), retain=64)
    with pytest.raises(SparseSightError, match="has no option"):
        from_dict({"method": name, "colour": "red"})


@pytest.mark.parametrize("kind", METHODS.values())
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retain": 0}, "at least 1"),
        ({"retain": True}, "use an int"),
        ({"retain": "64"}, "use an int"),
        ({"retain": 1.5}, r"\(0, 1\]"),
        ({"retain": math.nan}, r"\(0, 1\]"),
        ({"retain": ()}, "count >= 0"),
        ({"retain": [3, 4]}, "cannot grow"),
        ({"layers": ()}, "ascending"),
        ({"layers": (6, 2)}, "ascending"),
        ({"layers": (-2,)}, "ascending"),
        ({"layers": ("2",)}, "ascending"),
        ({"layers": (2, "6")}, "ascending"),
        ({"layers": (2.5,)}, "ascending"),
        ({"layers": 2}, "ascending"),
        ({"layers": "26"}, "ascending"),
        ({"positions": "old"}, "'original' or 'compact'"),
        ({"positions": None}, "'original' or 'compact'"),
        ({"always_drop": 1}, "True or False"),
        ({"always_drop": "no"}, "True or False"),
    ],
    ids=str,
)
def test_bad_fields(kind: type[Method], options: dict[str, Any], says: str) -> None:
    with pytest.raises(SparseSightError, match=says) as error:
        kind(**options)
    assert str(error.value).startswith(f"{next(iter(options))}=")


# -- where and how many ------------------------------------------------------------------------------------------


def test_stage_layers() -> None:
    assert SparseVLM(64).stage_layers(32) == (2, 6, 15)
    assert SparseVLM(64).stage_layers(32, allowed=tuple(range(8, 31))) == (8, 9, 15)
    assert SparseVLM(64, (1, 9)).stage_layers(32) == (1, 9)
    assert SparseVLM((50, 20)).stage_layers(32) == (2, 6)  # as many stages as there are counts
    assert SparseVLM((50, 20), adaptive=True).stage_layers(32) == (
        2,
        6,
        15,
    )  # whose counts come from the data


def test_layers_that_the_model_does_not_have() -> None:
    with pytest.raises(BudgetError, match=r"layers=\(2, 40\): .* from 0 to 30 \(of 32\)"):
        SparseVLM(64, (2, 40)).stage_layers(32)
    with pytest.raises(SparseSightError, match=r"cannot prune after \[2\]; possible: \(5, 6, 7\)"):
        SparseVLM(64, (2, 6)).stage_layers(32, allowed=(5, 6, 7))
    with pytest.raises(BudgetError, match="offers 2 pruning layers"):
        SparseVLM(64).stage_layers(3)


def test_too_many_counts() -> None:
    method = SparseVLM((50, 20, 10, 5))
    with pytest.raises(BudgetError, match=r"retain=\(50, 20, 10, 5\) has 4 counts for 3"):
        method.plan(576, 32, method.stage_layers(32))
