"""Methods in the settings of their papers: ``NAME:published``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.budget import Retain
from ..core.fields import plain_value
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


def describe_published(kind: type[Method]) -> str:
    """The published setting for the list of methods: ``fastv:published, retain 288 or 144``; empty if there is none."""
    at, name = kind.published_at, f"{kind.name}{SUFFIX}"
    return "" if at is None else name if at == () else f"{name}, retain {_in_words(at)}"


def published_setting(kind: type[Method], options: Mapping[str, Any]) -> Method:
    """A method's published setting, at a published budget; without one, at its own default.

    Raises:
        SparseSightError: there is none, or ``options`` has more than the budget.
        BudgetError: a budget at which it was not published.
    """
    name = f"{kind.name}{SUFFIX}"
    other = sorted(set(options) - {"retain"})
    if other:
        raise SparseSightError(
            f"method {name!r}: {brief(other)} cannot be chosen in a published setting, its budget alone is; write "
            f"{kind.name!r} to choose them"
        )
    known = kind.published_at
    if known is None:
        raise SparseSightError(f"method {name!r}: no setting is published; write {kind.name!r}")
    preset: Any = getattr(kind, "published")  # noqa: B009 - unpublished methods lack it
    retain = plain_value(options.get("retain"))
    if retain is not None:
        if known == ():
            raise SparseSightError(
                f"retain={brief(retain)}: {name!r} is one setting without a budget; leave retain out"
            )
        if isinstance(known, range):
            fits = isinstance(retain, int) and not isinstance(retain, bool) and retain in known
        else:  # `==` alone would accept True for 1, and a ratio of 1.0 for one token
            fits = any(type(x) is type(retain) and x == retain for x in known)
        if not fits:
            raise BudgetError(
                f"retain={brief(retain)}: {name!r} is published at {_in_words(known)}; choose one, or write "
                f"{kind.name!r}, which takes any budget"
            )
    made: Method = preset() if retain is None else preset(retain)
    return made


def _in_words(budgets: Iterable[Retain]) -> str:
    if isinstance(budgets, range):
        return "any number of tokens"
    *others, last = map(str, budgets)
    return f"{', '.join(others)} or {last}" if others else last
