"""What servers and requests ask for, read into methods."""

from __future__ import annotations

import json

import pytest

from sparsesight import FastV, PyramidDrop, SparseSightError, SparseVLMPlus
from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS, Compose
from sparsesight.vllm.config import RequestBudget, asked_of, kv_groups_of, method_of

STAGES = (0, 1, 3)
SERVED = METHODS[DEFAULT]  # where an entry names no method


@pytest.mark.parametrize("config", [None, {}, {"other": 1}, {"sparsesight": None}])
def test_nothing_is_asked_for(config: object) -> None:
    assert method_of(config) is None


def test_a_method_and_the_default_one() -> None:
    asked = json.loads('{"sparsesight": {"method": "fastv", "retain": 0.5, "layers": [1]}}')
    assert method_of(asked) == FastV(0.5, (1,))
    assert method_of({"sparsesight": {"retain": 64}}) == SERVED(64)
    composed = Compose(FastV(0.5, (1,)), SparseVLMPlus(64, (2, 3)))
    assert method_of({"sparsesight": composed.to_dict()}) == composed


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (64, ["sparsesight", "64", "retain"]),
        ({"method": "sparsevlm++"}, ["--additional-config", "sparsevlm++", "fastv"]),
        ({"retian": 64}, ["--additional-config", "retian", "retain"]),
        ({"retain": 0}, ["--additional-config", "retain=0", "at least 1"]),
        ({"kv_groups": "yes"}, ["--additional-config", "kv_groups='yes'", "true or false"]),
    ],
)
def test_a_server_is_told_what_is_wrong(entry: object, words: list[str]) -> None:
    with pytest.raises(SparseSightError) as error:
        method_of({"sparsesight": entry})
    assert all(word in str(error.value) for word in words)


def test_a_request_asks_for_its_own_budget() -> None:
    method = SparseVLMPlus(64)
    assert asked_of(method, STAGES, None) == RequestBudget(method, named=False)
    assert asked_of(method, STAGES, {"kv": 1}) == RequestBudget(method, named=False)
    assert asked_of(method, STAGES, {"sparsesight_retain": "none"}) == RequestBudget(None, named=True)
    assert asked_of(method, STAGES, {"sparsesight_retain": 128}).method == SparseVLMPlus(128, STAGES)
    assert asked_of(method, STAGES, {"sparsesight_retain": [3, 2, 1]}) == RequestBudget(
        SparseVLMPlus((3, 2, 1), STAGES), named=True
    )
    one, all_of_them = (asked_of(method, STAGES, {"sparsesight_retain": x}).method for x in ("1", 1.0))
    assert one is not None and all_of_them is not None
    assert isinstance(one.retain, int) and isinstance(all_of_them.retain, float)


@pytest.mark.parametrize(
    ("text", "retain"),
    [("64", 64), ("33%", 0.33), (" 0.5 ", 0.5), ("9,3,1", (9, 3, 1)), ("none", 1.0), ("100%", 1.0)],
)
def test_text_is_a_budget_everywhere(text: str, retain: object) -> None:
    served = method_of({"sparsesight": {"retain": text}})
    assert served == SERVED(retain)  # type: ignore[arg-type]
    asked = asked_of(SparseVLMPlus(64), STAGES, {"sparsesight_retain": text})
    wanted = None if retain == 1.0 else SparseVLMPlus(retain, STAGES)  # type: ignore[arg-type]
    assert asked == RequestBudget(wanted, named=True)


def test_a_server_without_pruning_lets_requests_opt_in() -> None:
    method = method_of({"sparsesight": {"retain": "none"}})
    assert method is not None and not method.plan(576, 8, STAGES).stages
    assert asked_of(method, STAGES, {"sparsesight_retain": 64}).method == SERVED(64, STAGES)


@pytest.mark.parametrize(
    "name", ["sparsesight_retian", "sparsesight-retain", "SparseSight_Retain", "sparsesight"]
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(name: str) -> None:
    with pytest.raises(SparseSightError, match=r"is not an argument.*'sparsesight_retain'"):
        asked_of(SparseVLMPlus(64), STAGES, {name: 64})


@pytest.mark.parametrize(
    ("retain", "words"),
    [
        ("many", ["sparsesight_retain 'many'", "33%", "none"]),
        ("0", ["sparsesight_retain '0'", "at least 1", "none"]),
        (1, ["sparsesight_retain=1", "cannot be distinguished", '"none"']),
        ("9," * 1025, ["sparsesight_retain='9,9", "3 pruning layers"]),
        (-3, ["sparsesight_retain=-3", "at least 1"]),
        ([3, 2], ["(3, 2)", "3 pruning layers"]),
        (True, ["sparsesight_retain=True", "cannot be distinguished", '"none"']),
        ([[3, 2, 1]], ["sparsesight_retain=[[3, 2, 1]]", "list of counts", "none"]),
        ({"retain": 3}, ["sparsesight_retain={'retain': 3}", "list of counts", "none"]),
    ],
)
def test_a_request_is_told_what_is_wrong(retain: object, words: list[str]) -> None:
    with pytest.raises(SparseSightError) as error:
        asked_of(SparseVLMPlus(64), STAGES, {"sparsesight_retain": retain})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "method", [PyramidDrop(ratio=0.5), Compose(FastV(0.5, (1,)), SparseVLMPlus(64, (2, 3)))]
)
def test_a_method_without_one_budget_takes_none(method: object) -> None:
    with pytest.raises(SparseSightError, match="no budget to change"):
        asked_of(method, STAGES, {"sparsesight_retain": 32})  # type: ignore[arg-type]


def test_blocks_for_each_stage_are_no_field_of_the_method() -> None:
    asked = {"sparsesight": {"retain": 64, "kv_groups": True}}
    assert method_of(asked) == SERVED(64) and kv_groups_of(asked)
    assert (
        not kv_groups_of({"sparsesight": {"retain": 64}}) and not kv_groups_of({}) and not kv_groups_of(None)
    )
