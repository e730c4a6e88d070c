"""What may be written for the budget, the layers and the method, and in the environment."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight import SparseSightError, SparseVLM, SparseVLMPlus, VisionZip
from sparsesight.commands.options import (
    build_method,
    choose_budgets,
    choose_method,
    choose_plain_method,
    choose_retain,
    in_options,
    parse_counts,
    parse_layers,
)
from sparsesight.core.retain import parse_retain
from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS, make_method, parse
from tests.commands.command_line import (
    ask,
    asked,
    plain_surroundings,  # noqa: F401
    refused,
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("64", 64),
        (" 1 ", 1),
        ("0.33", 0.33),
        (".5", 0.5),
        ("1.0", 1.0),
        ("1.", 1.0),
        ("33%", 0.33),
        ("12.5 %", 0.125),
        ("100%", 1.0),
        ("300,200,110", (300, 200, 110)),
        ("300, 200", (300, 200)),
        ("17,", (17,)),
    ],
)
def test_budgets(text: str, meant: Any) -> None:
    found = parse_retain(text)
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-5",
        "0",
        "0.0",
        "0%",
        "1.5",
        "101%",
        "1e2",
        "nan",
        "inf",
        "64x",
        "3,,2",
        ",3",
        "3;2",
        "1_0",
        "٣",
    ],
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SparseSightError) as caught:
        parse_retain(text, "--some-source")
    assert "--some-source" in str(caught.value) and repr(text) in str(caught.value)


def test_layers() -> None:
    assert parse_layers("0,2,4") == (0, 2, 4)
    assert parse_layers(" 3 ") == (3,)
    for text in ("", "a", "1;2", "-1", "1,", "1.5"):
        with pytest.raises(SparseSightError, match="--layers"):
            parse_layers(text)


def test_counts() -> None:
    assert parse_counts("576, 1152", "--visual") == (576, 1152)
    for text in ("", "0", "1,", "1,-1", "1,x", "1,1", "²"):
        with pytest.raises(SparseSightError, match="--batch"):
            parse_counts(text, "--batch")


def test_budgets_from_the_environment() -> None:
    assert choose_retain(None, {}) == 64
    assert choose_retain(None, {"RETAIN_TOKN": "192"}) == 192
    assert choose_retain(None, {"RETAIN_TOKEN": "33%"}) == 0.33
    assert choose_retain(None, {"RETAIN_TOKN": "96", "RETAIN_TOKEN": " 96"}) == 96
    assert choose_retain(None, {"RETAIN_TOKN": "", "RETAIN_TOKEN": "96"}) == 96
    assert choose_retain("7", {"RETAIN_TOKN": "192"}) == 7
    assert choose_retain("7", {"RETAIN_TOKN": "nonsense"}) == 7


def test_methods_from_the_environment() -> None:
    assert choose_method(None, {}) == DEFAULT
    for version, method in (
        ("1_0", SparseVLM.published(128)),
        ("1_5", SparseVLM.published(128)),
        ("2_0", SparseVLMPlus.published(128)),
    ):
        variables = {"USE_VERSION": version, "RETAIN_TOKN": "128"}
        assert make_method(choose_method(None, variables), retain=choose_retain(None, variables)) == method
    assert choose_method(None, {"USE_VERSION": ""}) == DEFAULT
    assert choose_method("random", {"USE_VERSION": "1_0"}) == "random"
    assert choose_method("random", {"USE_VERSION": "nonsense"}) == "random"


def test_where_budgets_change_a_version_is_the_plain_method() -> None:
    assert choose_plain_method(None, "serve", {"USE_VERSION": "1_0"}) == "sparsevlm"
    assert choose_plain_method(None, "serve", {}) == DEFAULT
    assert choose_plain_method("fastv(retain=64)", "serve", {"USE_VERSION": "1_0"}) == "fastv(retain=64)"
    for name in ("sparsevlm:published", "sparsevlm:published(retain=64)"):
        with pytest.raises(SparseSightError, match="serve takes any budget, write 'sparsevlm'"):
            choose_plain_method(name, "serve", {})


def test_nonsense_in_the_environment_names_the_variable() -> None:
    assert "RETAIN_TOKN 'many'" in refused(ask(RETAIN_TOKN="many"))
    assert "RETAIN_TOKEN '0'" in refused(ask(RETAIN_TOKEN="0"))
    assert "USE_VERSION '3_0'" in refused(ask(USE_VERSION="3_0"))
    message = refused(ask(RETAIN_TOKN="64", RETAIN_TOKEN="96"))
    assert "RETAIN_TOKN='64'" in message and "RETAIN_TOKEN='96'" in message


def test_the_environment_chooses_and_options_win() -> None:
    assert asked(RETAIN_TOKN="192")["method"] == METHODS[DEFAULT](192).to_dict()
    method = asked("--retain", "20%", "--method", "random", RETAIN_TOKN="192", USE_VERSION="1_0")["method"]
    assert (method["method"], method["retain"]) == ("random", 0.2)


def test_published_settings_in_ask() -> None:
    how = ("--method", "visionzip:published")
    assert asked(*how, "--retain", "64")["method"] == VisionZip.published(64).to_dict()
    assert asked(*how)["method"] == VisionZip.published().to_dict()  # its own default, not that of ask
    assert "published at 192, 128 or 64" in refused(ask(*how, "--retain", "33%"))
    assert "'layers'" in refused(ask(*how, "--layers", "1,2"))
    # The bundled model has 8 layers, and a version in the environment is meant to the letter.
    assert "'sparsevlm' instead of 'sparsevlm:published'" in refused(ask(USE_VERSION="1_0"))
    assert "published at 192, 128, 96 or 64" in refused(ask(USE_VERSION="2_0", RETAIN_TOKN="160"))


def test_a_method_may_bring_its_options() -> None:
    assert build_method("sparsevlm+(heads=0.5)", None, None) == SparseVLMPlus(64, heads=0.5)
    assert build_method("sparsevlm+(heads=0.5)", 0.3, (1, 2)) == SparseVLMPlus(0.3, (1, 2), heads=0.5)
    assert build_method("sparsevlm(retain=9)", None, None) == SparseVLM(9)
    assert build_method("sparsevlm:published", 192, None) == SparseVLM.published(192)
    both = build_method("visionzip(retain=192) > sparsevlm+(retain=64)", None, None)
    assert str(both) == str(parse("visionzip(retain=192) > sparsevlm+(retain=64)"))


@pytest.mark.parametrize(
    ("name", "retain", "layers", "option"),
    [
        ("sparsevlm(retain=9)", 8, None, "--retain 8"),
        ("sparsevlm(layers=(1, 2))", None, (1, 3), "--layers (1, 3)"),
        ("visionzip > sparsevlm+", 8, None, "--retain 8"),
        ("sparsevlm:published(retain=192)", None, (1, 3), "--layers (1, 3)"),
    ],
)
def test_an_option_is_said_once(name: str, retain: Any, layers: Any, option: str) -> None:
    with pytest.raises(SparseSightError) as error:
        build_method(name, retain, layers)
    assert str(error.value).startswith(option) and name in str(error.value)


def test_upstreams_lists_of_counts_are_one_budget_of_a_sweep() -> None:
    assert choose_budgets("(300,200,118)") == [(300, 200, 118)]


@pytest.mark.parametrize(
    ("args", "message", "said"),
    [
        (
            ["ask", "--layers", "50"],
            "layers=(50,): give a tuple of ascending layers",
            "--layers 50: give ascending layers",
        ),
        (["ask", "--layers=4,2"], "layers=(4, 2): no", "--layers 4,2: no"),
        (
            ["bench", "--methods", "x"],
            "method='x' is unknown; known are ['a', 'b']",
            "--methods 'x' is unknown; known are a, b",
        ),
        (
            ["ask", "--retain", "1"],
            "retain=1: prune earlier with layers=(...)",
            "--retain 1: prune earlier with --layers",
        ),
        (["eval", "--retain", "1"], "retain=1: with layers=(...)", "--retain 1: with layers=(...)"),
        (["ask", "--method", "fastv(retain=0)"], "retain=0: at least 1 token", "retain=0: at least 1 token"),
        ([], "the question is empty", "the question is empty"),
    ],
)
def test_errors_are_in_terms_of_the_options_that_were_given(args: list[str], message: str, said: str) -> None:
    assert in_options(message, args) == said
