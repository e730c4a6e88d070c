"""Reads the methods and budgets that servers and requests ask for.

A server: ``--additional-config '{"sparsesight": {"method": "halves", "retain": 64}}'``, the fields of a method as
:func:`sparsesight.methods.from_dict` reads them. A request: ``vllm_xargs`` (``SamplingParams.extra_args``) with
``{"sparsesight_retain": 128}``. Both take a budget as a JSON value (64, 0.33, [320, 80]) or as the command line
takes it ("64", "33%", "320,80"); ``"none"`` keeps every token, which makes a server opt-in by request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ..core.budget import Retain
from ..core.retain import MAX_STAGES
from ..core.turns import Turns
from ..errors import SparseSightError, brief
from ..method_names import DEFAULT
from ..methods import Method
from ..settings import DENSE, KEY, entry_method, parse_budget
from ..suggestions import did_you_mean

# A child of vLLM's logger, so that it has that one's handler and level; messages of other loggers are not shown.
logger = logging.getLogger("vllm.sparsesight")

REQUEST_KEY = "sparsesight_retain"
# Fields of the entry that are not the method's:
KV_GROUPS = "kv_groups"  # whether every stage has blocks of its own
TURNS = "turns"  # how the served model's chats mark their turns
COMPARE_RANKS = "compare_ranks"  # whether tensor-parallel ranks compare the rows that they keep
OWN = (KV_GROUPS, TURNS, COMPARE_RANKS)


def method_of(additional_config: Any) -> Method | None:
    """The method of a server's ``additional_config``; None if it has no entry ``sparsesight``.

    Raises:
        SparseSightError: if the entry is no method, or one beside it is meant for sparsesight, too.
    """
    given = additional_config if isinstance(additional_config, Mapping) else {}
    for name in given:
        if name != KEY and str(name).lower().startswith(KEY):
            raise SparseSightError(
                f"--additional-config: {brief(name)} is not read: the one entry of sparsesight is {KEY!r}, an object "
                f"with the method's fields; budgets of requests ({REQUEST_KEY}) belong into vllm_xargs"
            )
    entry = given.get(KEY)
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise SparseSightError(
            f'--additional-config: "{KEY}" is {brief(entry)}; give an object such as '
            f'{{"{KEY}": {{"method": "{DEFAULT}", "retain": 64}}}}'
        )
    try:
        kv_groups_of(additional_config)
        compare_ranks_of(additional_config)
        turns_of(additional_config)
        return entry_method({name: value for name, value in entry.items() if name not in OWN})
    except SparseSightError as error:
        raise type(error)(f'--additional-config "{KEY}": {error}') from error


def kv_groups_of(additional_config: Any) -> bool:
    """Whether a server asks for KV blocks for each stage.

    Raises:
        SparseSightError: if it is neither true nor false.
    """
    return _switch(additional_config, KV_GROUPS)


def compare_ranks_of(additional_config: Any) -> bool:
    """Whether tensor-parallel ranks compare what they keep, for debugging.

    Raises:
        SparseSightError: if it is neither true nor false.
    """
    return _switch(additional_config, COMPARE_RANKS)


def _switch(additional_config: Any, name: str) -> bool:
    entry = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    asked = entry.get(name, False) if isinstance(entry, Mapping) else False
    if not isinstance(asked, bool):
        raise SparseSightError(f"{name}={brief(asked)}: use true or false")
    return asked


def turns_of(additional_config: Any, tokenizer: Any = None) -> Turns | None:
    """How the served model's chats mark their turns; None if that is not known.

    Args:
        additional_config: its entry has them as :class:`Turns` has, by lists of token ids, or a list of what ends a
            user's turn; ``false`` where all text after the last picture is to judge.
        tokenizer: of the served model, which text needs.

    Raises:
        SparseSightError: naming what is none.
    """
    entry = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    given = entry.get(TURNS) if isinstance(entry, Mapping) else None
    if given is None or given is False:
        return None
    if not isinstance(given, Mapping):
        return Turns.of(given, tokenizer)
    unknown = sorted(given.keys() - {"end", "start", "template"})
    if unknown or not given.get("end"):
        raise SparseSightError(f"{TURNS}={brief(given)}: give end, and start and template if they are known")
    end, start = ((Turns.of(given[k]).end if given.get(k) else ()) for k in ("end", "start"))  # type: ignore[union-attr]
    return Turns(end, start, tuple(given.get("template", ())))


def with_turns(additional_config: Any, load_tokenizer: Callable[[], Any]) -> Any:
    """The configuration with turns as token ids, which reach every process; without any, by the chat template."""
    entry = additional_config[KEY]
    given = entry.get(TURNS)
    if given is False or isinstance(given, Mapping):
        return additional_config
    tokenizer = load_tokenizer()
    found = Turns.of(None, tokenizer) if given is None else turns_of(additional_config, tokenizer)
    if found is None:
        return additional_config
    ids = {"end": [*map(list, found.end)], "start": [*map(list, found.start)], "template": [*found.template]}
    return {**additional_config, KEY: {**entry, TURNS: ids}}


@dataclass(frozen=True)
class RequestBudget:
    """The method and budget of a request."""

    method: Method | None  # None: every token is kept
    named: bool  # whether the request names it, and not the server


def asked_of(method: Method, stages: tuple[int, ...], extra_args: Any) -> RequestBudget:
    """The server's method, at the request's own budget if it names one.

    Args:
        method: of the server.
        stages: its pruning layers, which no request can change: layers keep one KV layout.
        extra_args: of the request's sampling parameters.

    Raises:
        SparseSightError: naming the argument, its value and what is possible; also for an unknown argument that begins
            with ``sparsesight``.
    """
    check_names(extra_args)
    asked = extra_args.get(REQUEST_KEY) if isinstance(extra_args, Mapping) else None
    if asked is None:
        return RequestBudget(method, named=False)
    if isinstance(asked, bool) or (isinstance(asked, int) and asked == 1):
        # vLLM's server turns a JSON true into 1.
        raise SparseSightError(
            f'{REQUEST_KEY}={brief(asked)}: true and 1 cannot be distinguished; write "{DENSE}" to keep every token, '
            'or the number of tokens to keep ("1" for a single one)'
        )
    retain: Any = tuple(asked) if isinstance(asked, list) else asked
    if isinstance(asked, str):
        retain = _of_text(asked)
        if retain == 1.0 and isinstance(retain, float):
            return RequestBudget(None, named=True)
    if isinstance(retain, tuple) and len(retain) > MAX_STAGES:  # before it is kept by a cache
        raise SparseSightError(
            f"{REQUEST_KEY}={brief(asked)}: give one count for each of the {len(stages)} pruning layers {stages}"
        )
    try:
        return RequestBudget(_at(method, stages, retain), named=True)
    except TypeError:  # no key of a cache, such as a list within a list
        raise SparseSightError(
            f'{REQUEST_KEY}={brief(asked)}: use an int, a ratio in (0, 1], a list of counts or "{DENSE}"'
        ) from None


def _of_text(asked: str) -> Retain:
    try:
        if len(asked) > 16 * MAX_STAGES:
            raise SparseSightError(f"{REQUEST_KEY} {brief(asked)} is not a budget")
        return parse_budget(asked, REQUEST_KEY)
    except SparseSightError as error:
        raise type(error)(f'{error}; "{DENSE}" keeps every token') from error


def check_names(arguments: Any) -> None:
    """Refuse an unknown argument of a request that begins with ``sparsesight``.

    Raises:
        SparseSightError: naming it and the one that exists.
    """
    for name in arguments if isinstance(arguments, Mapping) else ():
        if isinstance(name, str) and name.lower().startswith(KEY) and name != REQUEST_KEY:
            hint = did_you_mean(name, [REQUEST_KEY]) or f"; the only one is {REQUEST_KEY!r}, a budget"
            raise SparseSightError(f"{brief(name)} is not an argument of sparsesight{hint}")


@lru_cache(maxsize=256, typed=True)  # typed: one token (1) is not every token (1.0)
def _at(method: Method, stages: tuple[int, ...], retain: Retain) -> Method:
    try:
        if not method.one_budget or getattr(method, "ratio", None) is not None:
            raise SparseSightError(f"the server's method {str(method)!r} has no budget to change")
        if isinstance(retain, tuple) and len(retain) != len(stages):
            raise SparseSightError(f"give one count for each of the {len(stages)} pruning layers {stages}")
        return replace(method, retain=retain, layers=stages)
    except SparseSightError as error:
        raise type(error)(
            f'{REQUEST_KEY}={brief(retain)}: {error}; "{DENSE}" or 1.0 keeps every token'
        ) from error
