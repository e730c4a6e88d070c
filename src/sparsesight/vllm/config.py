"""What a server and a request ask for, as methods.

A server: ``--additional-config '{"sparsesight": {"method": "sparsevlm+", "retain": 64}}'``, the fields of a method as
:func:`sparsesight.methods.from_dict` reads them. A request: ``vllm_xargs`` (``SamplingParams.extra_args``) with
``{"sparsesight_retain": 128}``, anything that ``retain`` may be, or ``"none"`` for a dense answer.
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
from ..methods import Method, SparseVLMPlus, from_dict

# Below vLLM's own logger, whose handler and level it then has: others of ours would not be shown.
logger = logging.getLogger("vllm.sparsesight")

KEY = "sparsesight"
REQUEST_KEY = "sparsesight_retain"
KV_GROUPS = "kv_groups"  # of the entry, and not of the method: whether every stage has blocks of its own
TURNS = "turns"  # of the entry, and not of the method: how the served model's chats mark their turns
DENSE = "none"


def method_of(additional_config: Any) -> Method | None:
    """The method of a server's ``additional_config``; None if it has no entry ``sparsesight``.

    Raises:
        SparseSightError: if the entry is no method.
    """
    entry = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise SparseSightError(
            f'--additional-config: "{KEY}" is {brief(entry)}; give an object such as '
            f'{{"{KEY}": {{"method": "sparsevlm+", "retain": 64}}}}'
        )
    try:
        kv_groups_of(additional_config)
        turns_of(additional_config)
        fields = {name: value for name, value in entry.items() if name not in (KV_GROUPS, TURNS)}
        return from_dict({"method": SparseVLMPlus.name, **fields})
    except SparseSightError as error:
        raise type(error)(f'--additional-config "{KEY}": {error}') from error


def kv_groups_of(additional_config: Any) -> bool:
    """Whether a server asks for KV blocks for each stage (experimental).

    Raises:
        SparseSightError: if it is neither true nor false.
    """
    entry = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    asked = entry.get(KV_GROUPS, False) if isinstance(entry, Mapping) else False
    if not isinstance(asked, bool):
        raise SparseSightError(f"{KV_GROUPS}={brief(asked)}: use true or false")
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
    """What a request is to be answered with."""

    method: Method | None  # None: every token is kept
    named: bool  # whether the request says so itself, and not the server


def asked_of(method: Method, stages: tuple[int, ...], extra_args: Any) -> RequestBudget:
    """The server's method, at the budget that a request names if it does.

    Args:
        method: of the server.
        stages: its pruning layers, which no request can change: layers keep one KV layout.
        extra_args: of the request's sampling parameters.

    Raises:
        SparseSightError: naming the argument, its value and what is possible; also for another argument that begins
            with ``sparsesight_``.
    """
    for name in extra_args if isinstance(extra_args, Mapping) else ():
        if isinstance(name, str) and name.startswith(f"{KEY}_") and name != REQUEST_KEY:
            raise SparseSightError(
                f"{brief(name)} is no argument of sparsesight: the one there is, {REQUEST_KEY}, names a budget"
            )
    asked = extra_args.get(REQUEST_KEY) if isinstance(extra_args, Mapping) else None
    if asked is None:
        return RequestBudget(method, named=False)
    if asked == DENSE:
        return RequestBudget(None, named=True)
    if isinstance(asked, list) and len(asked) > MAX_STAGES:  # before it is kept by a cache
        raise SparseSightError(
            f"{REQUEST_KEY}={brief(asked)}: give one count for each of the {len(stages)} pruning layers {stages}"
        )
    retain = tuple(asked) if isinstance(asked, list) else asked
    try:
        return RequestBudget(_at(method, stages, retain), named=True)
    except TypeError:  # no key of a cache, such as a list within a list
        raise SparseSightError(
            f'{REQUEST_KEY}={brief(asked)}: use an int, a ratio in (0, 1], a list of counts or "{DENSE}"'
        ) from None


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
