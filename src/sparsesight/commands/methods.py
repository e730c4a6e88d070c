"""``sparsesight methods``: the methods to choose from."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from typing import Any


def methods() -> None:
    """List the methods and their options."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..methods import METHODS, Method, describe_published

    console = Console(highlight=False)
    common = {field.name for field in fields(Method)}
    table = Table.grid(padding=(0, 2))
    for name, kind in METHODS.items():
        first_line = (kind.__doc__ or "").strip().partition("\n")[0]
        table.add_row(Text(name, "bold"), Text(re.sub(r":\w+:|`", "", first_line)))  # no markup
        own = [_written(field) for field in fields(kind) if field.name not in common]
        if own:
            table.add_row("", Text("options: " + ", ".join(own), "dim"))
        if published := describe_published(kind):
            table.add_row("", Text(f"published: {published}", "dim"))
    console.print(table)
    console.print()
    every = ", ".join(_written(field) for field in fields(Method))
    console.print(Text(f"options of every method: {every}", "dim"))


def _written(field: Field[Any]) -> str:
    """An option in the form that a user writes, ``seed=0``."""
    if field.default is MISSING:
        return field.name
    value = f"{field.default:g}" if isinstance(field.default, float) else repr(field.default)
    return f"{field.name}={value}"
