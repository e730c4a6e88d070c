"""The program: its help, its exit codes, and that a refusal is one line."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import sparsesight
from sparsesight import METHODS, SparseSightError, compare
from sparsesight.commands.cli import app, main
from sparsesight.commands.examples import EXAMPLES, WIDTH
from sparsesight.method_names import DEFAULT
from tests.commands.command_line import (
    PICTURE,
    QUESTION,
    VARIABLES,
    ask,
    independent,
    plain_surroundings,  # noqa: F401
    refused,
    run,
)

# The program


def test_version() -> None:
    assert run("--version").stdout == f"sparsesight {sparsesight.__version__}\n"


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_names_the_commands(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("ask", "bench", "methods", "--version"))
    assert all(line in result.stdout for line in EXAMPLES[""].strip().splitlines())


@pytest.mark.parametrize("name", [str(command.name) for command in app.registered_commands])
def test_help_of_every_command_has_examples_that_parse(name: str) -> None:
    text = run(name, "--help").stdout
    lines = EXAMPLES[name].strip().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert lines and all(len(line) <= WIDTH for line in [*lines, *EXAMPLES[""].splitlines()])
    commands: Any = typer.main.get_command(app)
    for line in lines:
        assert line in text
        program, command, *arguments = shlex.split(line, comments=True)
        assert (program, command) == ("sparsesight", name)
        known = commands.commands[command]
        context = typer.Context(known, info_name=command, **known.context_settings)
        known.make_parser(context).parse_args(arguments)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    typed = {"COMP_WORDS": "sparsesight be", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "sparsesight be"}
    fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    done = program(**typed, **fish, _SPARSESIGHT_COMPLETE=f"complete_{shell}", _entry="sparsesight")
    assert "bench" in done.stdout and "methods" not in done.stdout


def test_help_of_ask_names_every_option_and_variable() -> None:
    text = run("ask", "--help").stdout
    options = "model method retain layers max-new-tokens json save device dtype trust-remote-code".split()  # noqa: SIM905
    assert all(f"--{name}" in text for name in options)
    assert "RETAIN_TOKN" in text and "USE_VERSION" in text


def test_help_imports_neither_torch_nor_transformers() -> None:
    # A bare stand-in for the package keeps this about the command line.
    program = (
        "import sys, types; package = types.ModuleType('sparsesight'); package.__path__ = [sys.argv[1]];"
        "sys.modules['sparsesight'] = package; import sparsesight.commands.cli as cli\n"
        "try: cli.app(['ask', '--help'])\n"
        "except SystemExit: sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    package = str(Path(sparsesight.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, package], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"--retain" in done.stdout


def test_methods_are_listed_with_what_they_do_and_their_options() -> None:
    result = run("methods")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    for name, kind in METHODS.items():
        assert name in said
        first_line = re.sub(r":class:|`", "", (kind.__doc__ or "").splitlines()[0])
        assert " ".join(first_line.split()) in said
    assert "`" not in said and ":class:" not in said
    for option in ("retain=64", "layers=None", "recycle=0.3", "heads=0.4375", "seed=0"):
        assert option in said
    places = [
        said.index(x)
        for x in (f"Default: {DEFAULT}", "Inside the language", "Before the language", "Controls")
    ]
    assert places == sorted(places)
    inside, before, controls = (said[a:b] for a, b in zip(places[1:], [*places[2:], None], strict=True))
    assert "fastv" in inside and "divprune" in before and "random" in controls and "random" not in inside


def test_methods_as_json() -> None:
    found = {entry["name"]: entry for entry in json.loads(run("methods", "--json").stdout)}
    assert list(found) == list(METHODS) and all(entry["when"] and entry["does"] for entry in found.values())
    assert {name for name, entry in found.items() if entry["group"] == "controls"} == {
        *("pooling", "uniform", "last-token", "random")
    }
    assert found["sparsevlm"]["options"]["recycle"] == 0.3 and found["random"]["options"] == {"seed": 0}
    assert "192" in found["sparsevlm"]["published"] and found["uniform"]["published"] == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ask --method vis", ["visionzip", "vispruner", "visionzip:published", "vispruner:published"]),
        ("eval --methods dense,hol", ["dense,holov", "dense,holov:published"]),
        ("bench --methods uniform,narr", ["uniform,narrow"]),
    ],
)
def test_method_names_are_completed(typed: str, offered: list[str]) -> None:
    words = f"sparsesight {typed}"
    done = program(
        COMP_WORDS=words, COMP_CWORD="3", _SPARSESIGHT_COMPLETE="complete_bash", _entry="sparsesight"
    )
    assert done.stdout.split() == offered


@pytest.mark.parametrize("name", [str(command.name) for command in app.registered_commands])
def test_flags_take_no_value(name: str) -> None:
    assert "bool" not in run(name, "--help").stdout.lower()


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["florb"], "No such command 'florb'"),
        (["ask", "--florb"], "No such option: --florb"),
        (["ask", "a", "b", "c"], "(c)"),
        (["ask", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["ask", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["ask", "--retain"], "--retain"),
    ],
)
def test_wrong_use_is_one_line(args: list[str], part: str) -> None:
    assert part in refused(run(*args))


def test_what_is_no_users_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(compare, "compare", broken)
    result = ask()
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1


def test_a_message_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise SparseSightError("this cannot be done:\n    do that")

    monkeypatch.setattr(compare, "compare", refuses)
    assert refused(ask()) == "error: this cannot be done: do that\n"


def test_standalone_mode_can_be_switched_off() -> None:
    result = CliRunner().invoke(app, ["ask", "--retain", "x"], standalone_mode=False)
    assert isinstance(result.exception, SparseSightError)


# As a program


def program(
    *args: str, _entry: str = "sparsesight.commands.cli", **environment: str
) -> subprocess.CompletedProcess[str]:
    settings = {k: v for k, v in os.environ.items() if k not in (*VARIABLES, "TORCH_LOGS")}
    return subprocess.run(
        [sys.executable, "-m", _entry, *args],
        env={**settings, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_program_answers() -> None:
    """Without warnings of other libraries, such as torchao about kernels that a CPU does not need."""
    done = program("ask", "--json", "--retain", "33%", "--max-new-tokens", "4", _entry="sparsesight")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["dense"]["answer"] == independent(QUESTION)[0]


def test_the_program_refuses() -> None:
    done = program("ask", "no.png", "what?")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: 'no.png' does not exist: check the path of the picture\n"


def test_a_terminal_without_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(PICTURE, tmp_path / "日.png")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["sparsesight", "ask", "日.png", "What color is the cross?"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    terminal.flush()
    printed = terminal.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "?.png" in printed and "kept after each stage" in printed
