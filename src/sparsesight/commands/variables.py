"""Environment variables that set defaults of options, and what is said of those that a command does not read."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from ..suggestions import did_you_mean
from .options import DEFAULTS, RETAIN_VARIABLES, VERSION_VARIABLE

OWN = "SPARSESIGHT_"  # how names of its variables begin
# The variables of SparseVLM's scripts, and what reads them.
UPSTREAM = {**dict.fromkeys(RETAIN_VARIABLES, "--retain"), VERSION_VARIABLE: "--method"}
READ_UPSTREAM = ("ask", "bench", "eval", "demo", "serve")
WITHOUT = ("--method", "--methods", "--retain", "--layers")  # options that no variable of ours sets


def defaults(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that are set and look like defaults of options; an empty one counts as unset."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if value and (name.startswith(OWN) or name in UPSTREAM)
    }


def unknown(name: str) -> str:
    """What is said of a variable that looks like one of ours and is none."""
    option = "--" + name.removeprefix(OWN).lower().replace("_", "-")
    if option in WITHOUT:
        return f"no variable of SparseSight: give {option} on the command line"
    return f"no variable of SparseSight{did_you_mean(name, tuple(DEFAULTS))}"


def ignored(command: str, read: Collection[str], environment: Mapping[str, str] = os.environ) -> str:
    """One line about the variables that are set and not read by a command; empty if there are none.

    Args:
        read: the variables that the command's options declare.
    """
    parts = []
    for name, value in defaults(environment).items():
        if name in read or (name in UPSTREAM and command in READ_UPSTREAM):
            continue
        option = DEFAULTS.get(name) or UPSTREAM.get(name)
        why = unknown(name) if option is None else f"{command} takes no default for {option}"
        parts.append(f"{name}={value} has no effect ({why})")
    return "; ".join(parts)
