"""The settings that a search chooses from: methods x budgets x depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.budget import Retain
from ...errors import SparseSightError
from ...methods import Method, has_budget, is_published, parse


@dataclass(frozen=True)
class Setting:
    """A candidate.

    Attributes:
        method: with its budget.
        kind: the same for settings that differ in their budget alone.
    """

    method: Method
    kind: str

    @property
    def name(self) -> str:
        return str(self.method)


def make_settings(
    names: Sequence[str], budgets: Sequence[Retain], depths: Sequence[tuple[int, ...]] = ()
) -> list[Setting]:
    """Every method at every budget and depth; once, if it brings its own budget or takes none.

    Args:
        names: methods as the user wrote them.
        budgets: ``retain`` of each.
        depths: pruning layers of each; none: its own.

    Raises:
        SparseSightError: no method, one twice, or a budget or depth that is none.
    """
    found: list[Setting] = []
    for name in names:
        method = parse(name)
        own = is_published(name) or not method.one_budget or "retain=" in name.replace(" ", "")
        if own or not has_budget(name, method):
            found.append(Setting(method, name))
            continue
        for layers in depths or (method.layers,):
            for retain in budgets:
                found.append(Setting(replace(method, retain=retain, layers=layers), f"{name} {layers}"))
    every = [setting.name for setting in found]
    twice = next((name for name in every if every.count(name) > 1), None)
    if twice is not None or not found:
        raise SparseSightError(
            "--methods: name at least one method" if twice is None else f"--methods: {twice!r} is there twice"
        )
    return found
