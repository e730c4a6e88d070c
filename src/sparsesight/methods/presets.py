"""Published settings by name, such as ``sparsevlm:published``, at the budgets that their authors published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.budget import Retain
from ..core.method import Method
from ..errors import BudgetError, SparseSightError, brief

SUFFIX = ":published"


def is_published(name: str) -> bool:
    """Whether the text of a method names its published setting, with or without a budget in brackets."""
    return name.partition("(")[0].strip().endswith(SUFFIX)


def has_budget(name: str, method: Method) -> bool:
    """Whether ``--retain`` has an effect on a method: not if its counts depend on the data, nor if a published setting
    is the only one or names its budget in brackets."""
    if method.data_dependent:
        return False
    return not is_published(name) or ("(" not in name and method.published_at != ())


def make_published(kind: type[Method], retain: Retain | None = None) -> Method:
    """``kind.published()`` at a published budget; without one, at its own default.

    Raises:
        SparseSightError: no setting is published, or only one without a budget.
        BudgetError: the budget is not a published one; the message lists those.
    """
    name = f"{kind.name}{SUFFIX}"
    if kind.published_at is None:
        raise SparseSightError(f"method {name!r}: no setting is published; write {kind.name!r}")
    preset: Any = getattr(kind, "published")  # noqa: B009 - unpublished methods lack it
    if retain is None:
        made: Method = preset()
        return made
    if kind.published_at == ():
        raise SparseSightError(
            f"retain={brief(retain)}: {name!r} is one setting without a budget; leave retain out"
        )
    # `==` alone would accept True for 1, and a ratio of 1.0 for one token.
    if isinstance(retain, tuple) or not any(
        type(x) is type(retain) and x == retain for x in _known(kind.published_at, retain)
    ):
        raise BudgetError(
            f"retain={brief(retain)}: {name!r} is published at {_in_words(kind.published_at)}; choose one, or write "
            f"{kind.name!r}, which takes any budget"
        )
    made = preset(retain)
    return made


def describe(kind: type[Method]) -> str:
    """The published setting for the list of methods: ``fastv:published, retain 288 or 144``; empty if there is none."""
    if kind.published_at is None:
        return ""
    name = f"{kind.name}{SUFFIX}"
    return name if kind.published_at == () else f"{name}, retain {_in_words(kind.published_at)}"


def _known(budgets: Iterable[Retain], retain: Retain) -> Iterable[Retain]:
    if isinstance(budgets, range):
        return (retain,) if isinstance(retain, int) and retain in budgets else ()
    return budgets


def _in_words(budgets: Iterable[Retain]) -> str:
    if isinstance(budgets, range):
        return "any number of tokens"
    *others, last = map(str, budgets)
    return f"{', '.join(others)} or {last}" if others else last
