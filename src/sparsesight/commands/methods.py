"""``sparsesight methods``: the methods to choose from."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

import typer

from ..method_names import DEFAULT
from .options import AsJson

if TYPE_CHECKING:
    from ..methods import Method

WHY = (
    "At equal cost it is first on one of two test models, and level with the first on the other "
    "(benchmarks/README.md). Half of its tokens are chosen by difference alone, so that it risks little where the "
    "question's words say nothing about the picture. No large model has been measured yet. Every method takes any "
    "budget, and 'a > b' composes two."
)


def methods(as_json: AsJson = False) -> None:
    """List the methods by where they prune: what each does, when to choose it, its options."""
    from ..methods import METHODS

    described = [describe(kind) for kind in METHODS.values()]
    if as_json:
        typer.echo(json.dumps(described))
    else:
        _show(described)


def describe(kind: type[Method]) -> dict[str, Any]:
    """A method as JSON-serialisable data: name, group, what it does, when to choose it, its own options with defaults,
    and its published setting ("" if it has none)."""
    from ..methods import Method, describe_published

    common = {field.name for field in fields(Method)}
    first_line = (kind.__doc__ or "").strip().partition("\n")[0]
    return {
        "name": kind.name,
        "group": kind.group(),
        "does": re.sub(r":\w+:|`", "", first_line),  # no markup
        "when": kind.when,
        "options": {
            field.name: None if field.default is MISSING else field.default
            for field in fields(kind)
            if field.name not in common
        },
        "published": describe_published(kind) or "",
    }


def _show(described: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from ..methods import GROUPS, Method

    console = Console(highlight=False)
    console.print(Text(f"Default: {DEFAULT}. {WHY}\n"))
    for group in GROUPS:
        console.print(Text(group.capitalize(), "bold underline"))
        table = Table.grid(padding=(0, 2))
        for entry in (x for x in described if x["group"] == group):
            table.add_row(Text(entry["name"], "bold"), Text(entry["does"]))
            table.add_row("", Text(f"when: {entry['when']}"))
            if entry["options"]:
                own = ", ".join(f"{name}={_plain(value)}" for name, value in entry["options"].items())
                table.add_row("", Text(f"options: {own}", "dim"))
            if entry["published"]:
                table.add_row("", Text(f"published: {entry['published']}", "dim"))
        console.print(Padding(table, (0, 0, 1, 0)))
    every = ", ".join(_written(field) for field in fields(Method))
    console.print(Text(f"options of every method: {every}", "dim"))


def _written(field: Field[Any]) -> str:
    """An option in the form that a user writes, ``seed=0``."""
    return field.name if field.default is MISSING else f"{field.name}={_plain(field.default)}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
