"""Every shell command in every page: what can run here does, of the rest all that is ours is looked at."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer
from packaging.requirements import InvalidRequirement, Requirement
from typer.testing import CliRunner

from sparsesight import SparseSightError, bundled
from sparsesight.commands.cli import app
from sparsesight.commands.options import (
    choose_budgets,
    choose_methods,
    choose_retain,
    parse_layers,
    split_list,
)
from sparsesight.commands.serve import _method as server_method
from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.own.read import is_own
from sparsesight.eval.scene_sets import scene_set
from sparsesight.methods import parse
from sparsesight.random_models import Shape
from sparsesight.settings import KEY
from sparsesight.vllm.config import method_of
from tests.commands.command_line import plain_surroundings  # noqa: F401
from tests.docs.blocks import PROGRAMS, ROOT, commands, pages, program

RUN = {
    "ask",
    "bench",
    "doctor",
    "eval",
    "methods",
}  # the others wait for somebody, and have tests of their own
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
ROWS = "my.jsonl"  # own data of the guide
FOREIGN = {"bash", "cd", "curl", "git", "hf", "pre-commit", "pytest"}  # nothing in them is ours


WITH_COMMANDS = [p for p in pages() if commands(p)]
FIRST_SEEN = ("README.md",)  # the other pages' commands are these at other values


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands(page: str) -> None:
    for command in commands(page):
        look(command)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=() if p in FIRST_SEEN else pytest.mark.slow) for p in WITH_COMMANDS],
)
def test_commands_run(page: str) -> None:
    for command in commands(page):
        arguments = ours_in(command)
        if arguments and can_run(arguments):
            run(arguments)


def ours_in(command: list[str]) -> list[str] | None:
    """Arguments of ``sparsesight``, if that is what is called."""
    if "-m" in command and command[command.index("-m") + 1] == "sparsesight":
        return command[command.index("-m") + 2 :]
    names = [i for i, word in enumerate(command) if not re.fullmatch(r"[A-Z_0-9]+=.*", word)]
    return command[names[0] + 1 :] if program(command) == "sparsesight" else None


def look(command: list[str]) -> None:
    name, said, arguments = program(command), " ".join(command), ours_in(command)
    while re.fullmatch(r"[A-Z_0-9]+=.*", command[0]):
        command = command[1:]
    assert name in PROGRAMS, f"what is {name!r} in {said!r}? Teach tests/docs/test_shell.py"
    module = command[command.index("-m") + 1] if "-m" in command else ""
    if arguments is not None:
        ours(arguments)
    elif name == "make":
        wanted = [word for word in command[1:] if "=" not in word]
        assert set(wanted) <= TARGETS, said
    elif name == "pip":
        installed(command, said)
    elif name == "vllm":
        given = dict(pairwise(command))
        assert method_of(json.loads(given.get("--additional-config", json.dumps({KEY: {}})))) is not None, (
            said
        )
    elif module:
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists() or module in (
            "mkdocs",
            "pytest",
        ), said
    elif name in ("python", "torchrun"):
        # behind torchrun's options
        at = next(place for place, word in enumerate(command) if word.endswith(".py"))
        script, arguments = ROOT / command[at], command[at + 1 :]
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        known = script.read_text("utf-8")
        if 'app(["eval", *' in known:  # it hands its arguments on
            ours(["eval", *arguments])
            return
        assert all(f'"{option}"' in known for option in options), said
    else:
        assert name in FOREIGN, said


def installed(command: list[str], said: str) -> None:
    """Extras that are named exist."""
    for word in command[2:]:
        text = re.sub(r"^\.(?=\[|$)", "sparsesight", word)
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # an option, or its value
        if wanted.name == "sparsesight":
            assert wanted.extras <= set(PROJECT["optional-dependencies"]), said


def ours(arguments: list[str]) -> None:
    """The command exists, takes these options, and knows the names in them."""
    known: Any = typer.main.get_command(app)
    if arguments[:1] == ["eval"] and "..." in arguments:
        return  # the general form of a command that is shown in full elsewhere
    if arguments and arguments[0] not in known.commands:
        assert arguments[0] in ("--help", "--version", "--install-completion", "--show-completion"), arguments
        return
    if not arguments:
        return
    command = known.commands[arguments[0]]
    context = typer.Context(command, info_name=arguments[0], **command.context_settings)
    command.make_parser(context).parse_args(arguments[1:])
    given = dict(pairwise(arguments))
    for name in choose_methods(given["--methods"], {}) if "--methods" in given else []:
        assert name == "dense" or parse(name)
    if arguments[0] == "eval":
        for task in split_list(given["--tasks"], "--tasks"):
            assert is_own(task) or task in BENCHMARKS or scene_set(task), arguments
    if arguments[0] == "serve":
        assert server_method("sparsevlm+", given.get("--retain"), None)
    elif "--retain" in given:
        check = choose_retain if arguments[0] == "ask" else choose_budgets
        assert check(given["--retain"], {})
    if "--shape" in given:
        assert Shape.parse(given["--shape"])
    if "--layers" in given:
        assert parse_layers(given["--layers"])


def drawable(task: str) -> bool:
    """A task of scenes, whose icons and fonts are installed if it needs any."""
    scenes = scene_set(task)
    try:
        if scenes is not None:
            scenes.check()
    except SparseSightError:
        return False
    return scenes is not None


def can_run(arguments: list[str]) -> bool:
    """Here, in seconds: a sweep of benchmarks needs their data, and a real model's speed is not measured."""
    given = dict(pairwise(arguments))
    if arguments[0] == "eval":
        return (
            "--tasks" in given
            and "--difficult" not in given
            and all(task == ROWS or drawable(task) for task in given["--tasks"].split(","))
        )
    return arguments[0] in RUN and (arguments[0] != "bench" or "--shape" in given)


DONE: set[tuple[str, ...]] = set()


def small(arguments: list[str]) -> list[str]:
    """The command at a size that takes seconds: a short answer, two questions, a narrow decoder, one repetition."""
    changed = {"ask": {"--max-new-tokens": "3"}, "eval": {"--limit": "2"}}.get(arguments[0], {})
    given = dict(pairwise(arguments))
    if "--shape" in given:
        sizes = dict(part.split("=") for part in given["--shape"].split(","))
        sizes |= {"layers": "4", "hidden": "64", "ffn": "128"}
        changed = {
            "--shape": ",".join(f"{name}={value}" for name, value in sizes.items()),
            "--repeats": "1",
            "--steps": "1",
        }
        if "--visual" in given:
            changed["--visual"] = ",".join(given["--visual"].split(",")[:2])
    for option, value in changed.items():
        if option in arguments:
            arguments = [value if before == option else word for before, word in pairwise(["", *arguments])]
        else:
            arguments = [*arguments, option, value]
    return arguments


def run(arguments: list[str]) -> None:
    """In a folder of its own, with the bundled model for checkpoints and a bundled picture for a photograph."""
    shutil.copy(bundled.default_picture(), "photo.jpg")
    row = {"image": "photo.jpg", "question": "What color is the heart?"}
    Path(ROWS).write_text(f"{json.dumps(row)}\n" * 12)
    here = [bundled.MODEL_PATH.as_posix() if "/" in word and "hf" in word else word for word in arguments]
    here = small(here)
    if tuple(here) in DONE:
        return
    DONE.add(tuple(here))
    result = CliRunner().invoke(app, here)
    assert result.exit_code == 0, f"{arguments}: {result.stderr}"
    if "--save" in here:
        assert Path(here[here.index("--save") + 1]).stat().st_size


@pytest.mark.parametrize(
    "command",
    [
        ["sparsesight", "ask", "--retian", "64"],
        ["sparsesight", "aks"],
        ["sparsesight", "eval", "--tasks", "mmme"],
        ["sparsesight", "eval", "--tasks", "mme", "--methods", "fastvv"],
        ["sparsesight", "bench", "--shape", "depth=3"],
        ["make", "coffee"],
        ["pip", "install", "sparsesight[coffee]"],
        ["python", "benchmarks/nowhere.py"],
        ["python", "benchmarks/bundle.py", "--coffee"],
        ["python", "-m", "sparsesight", "bench", "--coffee"],
        ["brew", "coffee"],
    ],
)
def test_what_is_wrong_would_be_seen(command: list[str]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each has its own
        look(command)
