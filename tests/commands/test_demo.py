"""``sparsesight demo``: what it refuses before it loads anything, and what it begins with."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesight.commands import demo
from sparsesight.demo.engine import Engine
from sparsesight.errors import SparseSightError
from sparsesight.hf import loading
from sparsesight.hf.loading import load_model
from tests.commands.command_line import plain_surroundings, refused, run  # noqa: F401


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("found out too late"))


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert "needs Gradio: pip install 'sparsesight[demo]'" in refused(run("demo"))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--retain", "few"], "--retain 'few'"),
        (["--retain", "300,200,110"], "one slider"),
        (["--method", "florb"], "'florb'"),
        (["--port", "0"], "--port"),
        (["--port", "70000"], "--port"),
    ],
)
def test_mistakes_are_one_line(args: list[str], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: True)
    assert part in refused(run("demo", *args))


def test_variables_choose_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: True)
    assert "USE_VERSION" in refused(run("demo", USE_VERSION="3_0"))


@pytest.mark.parametrize(("budget", "tokens"), [(64, 64), (0.25, 144), (1.0, 576)])
def test_what_the_page_begins_with(budget: Any, tokens: int) -> None:
    engine = Engine(load_model())
    found = demo.first_choices(engine, "fastv", budget)
    assert (found.method, found.retain, found.visual) == ("fastv", tokens, 576)
    assert found.seconds > 0
    with pytest.raises(SparseSightError, match="576 visual tokens"):
        demo.first_choices(engine, "fastv", 577)
    engine.close()


def test_help_names_the_extra() -> None:
    said = " ".join(run("demo", "--help").stdout.split())
    assert 'the extra "demo"' in said and "127.0.0.1" in said
