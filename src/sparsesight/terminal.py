"""Text that did not come from this program, made safe for a terminal: the one place where this is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.text import Text

LONGEST = 4000  # characters of an error


def plain(text: object, *, breaks: bool = True) -> str:
    """Without what would steer a terminal: control characters, escapes, changes of writing direction, invisible signs.

    Each is shown as U+FFFD, so that nothing disappears; tabs and other spaces are shown as spaces.

    Args:
        text: anything; its ``str`` is shown.
        breaks: whether line breaks stay; without them it is one line.
    """
    shown = "".join(c if c.isprintable() or c in "\n" else _other(c) for c in str(text))
    return shown if breaks else " ".join(shown.split())


def rich_text(text: object, style: str = "") -> Text:
    """The same for ``rich``, which reads no markup in it."""
    from rich.text import Text

    return Text(plain(text), style)


def echo(text: object, *, err: bool = False) -> None:
    """Print :func:`plain` text on standard output or standard error."""
    typer.echo(plain(text), err=err)


def one_line(text: object) -> str:
    """:func:`plain` text on one line of bounded length, for an error."""
    line = plain(text, breaks=False)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _other(sign: str) -> str:
    return (
        " "
        if sign.isspace() and sign not in "\x1c\x1d\x1e\x1f\x85\x0b\x0c\r"
        else "\N{REPLACEMENT CHARACTER}"
    )
