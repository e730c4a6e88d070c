"""Variables that set defaults: each command reads one, or says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesight.commands.cli import app
from sparsesight.commands.options import DEFAULTS
from sparsesight.commands.variables import UPSTREAM
from tests.commands.command_line import plain_surroundings, run  # noqa: F401

COMMANDS = {command.name: command for command in app.registered_commands}
LEAST = {"eval": ("--tasks", "scenes"), "tune": ("rows.jsonl",), "serve": ("model",)}
WRONG = {"SPARSESIGHT_MODEL": "/no/such", "RETAIN_TOKN": "many", "RETAIN_TOKEN": "many", "USE_VERSION": "9_9"}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "doctor"])
@pytest.mark.parametrize("variable", ["SPARSESIGHT_MODEL", "RETAIN_TOKN"])
def test_a_wrong_default_is_refused_or_said_to_have_no_effect(
    command: str, variable: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    result = run(command, *LEAST.get(command, ()), **{variable: WRONG[variable]})
    lines = [line for line in result.stderr.splitlines() if variable in line or WRONG[variable] in line]
    assert len(lines) == 1
    note = f"note: {variable}={WRONG[variable]} has no effect ({command} takes no default for --"
    assert lines[0].startswith((note, "error: "))


@pytest.mark.parametrize("variable", ["SPARSESIGHT_METHOD", "SPARSESIGHT_MODLE", *DEFAULTS, *UPSTREAM])
def test_what_is_not_read_is_one_line(variable: str) -> None:
    result = run("methods", **{variable: "x"})
    assert result.exit_code == 0 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"note: {variable}=x has no effect (")
    assert "did you mean" in result.stderr or "--" in result.stderr


def test_what_is_read_is_not_said() -> None:
    result = run("ask", "--no-such-option", SPARSESIGHT_DTYPE="float32", RETAIN_TOKN="64")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
