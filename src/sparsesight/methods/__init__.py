"""Token-reduction methods. One published method is one short file and one row of :data:`METHODS`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ..core.budget import Retain
from ..core.fields import plain_value
from ..core.method import MAX_TEXT, Group, Method
from ..errors import BudgetError, SparseSightError, brief
from ..suggestions import did_you_mean
from .cdpruner import CDPruner
from .compose import Compose
from .dart import DART
from .divprune import DivPrune
from .fastv import FastV
from .fastvid import FastVID
from .halves import Halves
from .holov import HoloV
from .last_token import LastToken
from .mmtok import MMTok
from .narrow import Narrow
from .pooling import Pooling
from .priortr import PriorTR
from .pyramid_drop import PyramidDrop
from .random import Random
from .scope import SCOPE
from .sparsevlm import SparseVLM
from .sparsevlm_plus import SparseVLMPlus
from .tome import ToMe
from .uniform import Uniform
from .vidcom2 import VidCom2
from .visionzip import VisionZip
from .vispruner import FasterVLM, VisPruner

SUFFIX = ":published"
GROUPS: dict[Group, str] = {
    "inside the language model": "after some of its layers, by what they read",
    "before the language model": "once, before its first layer",
    "controls": "simple rules that a method has to beat",
}
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        SparseVLM,
        SparseVLMPlus,
        FastV,
        PyramidDrop,
        DART,
        PriorTR,
        VisionZip,
        VisPruner,
        FasterVLM,
        DivPrune,
        CDPruner,
        SCOPE,
        MMTok,
        VidCom2,
        FastVID,
        Halves,
        Narrow,
        HoloV,
        ToMe,
        Pooling,
        Uniform,
        LastToken,
        Random,
    )
}


def make_method(method: Method | str, /, **options: Any) -> Method:
    """A method from its name and options, or the instance itself.

    ``make_method("sparsevlm:published", retain=192)`` is the published setting, ``SparseVLM.published(192)``, without
    ``retain`` its default; it has no further options.

    Raises:
        SparseSightError: unknown name or option (the message lists the known ones), or options with an instance.
        BudgetError: a budget at which the setting was not published.
    """
    if isinstance(method, Method):
        if options:
            raise SparseSightError(
                f"options {sorted(options)} go with a method name; give them to {method!r} instead"
            )
        return method
    if isinstance(method, str) and is_published(method) and method.removesuffix(SUFFIX) in METHODS:
        return _published(method, options)
    if not isinstance(method, str) or method not in METHODS:
        spellings = {name: name for name in METHODS} | {kind.__name__: n for n, kind in METHODS.items()}
        spellings |= {
            f"{n}{SUFFIX}": f"{n}{SUFFIX}" for n, kind in METHODS.items() if kind.published_at is not None
        }
        raise SparseSightError(
            f"method={brief(method)} is unknown; known are {sorted(METHODS)}{did_you_mean(method, spellings)}"
        )
    kind = METHODS[method]
    known = [f.name for f in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SparseSightError(
            f"method {method!r} has no option {brief(unknown)}; it has {known}{did_you_mean(unknown[0], known)}"
        )
    return kind(**options)


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


def _published(name: str, options: dict[str, Any]) -> Method:
    """The published setting ``name``, at a published budget; without one, at its own default."""
    kind = METHODS[name.removesuffix(SUFFIX)]
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


def parse(text: str) -> Method:
    """A method from text: ``fastv``, ``visionzip(retain=192)``, a published setting ``sparsevlm:published``, or a
    composition with ``>`` between methods.

    ``parse(str(method)) == method``.

    Raises:
        SparseSightError: as :func:`make_method`, and for other syntax.
    """
    if not isinstance(text, str):
        raise SparseSightError(f"method {brief(text)}: write it as text, such as 'sparsevlm+(retain=64)'")
    if len(text) > MAX_TEXT:
        raise SparseSightError(
            f"method {brief(text)} has {len(text):,} characters: write a name and options in at most {MAX_TEXT:,}"
        )
    if not text.isascii() or not all(sign.isprintable() or sign.isspace() for sign in text):
        raise SparseSightError(
            f"method {text!r}: names and options are written in plain ASCII, such as sparsevlm+(retain=64)"
        )
    texts = text.split(">")
    published = next((part.strip() for part in texts if is_published(part)), None)
    if published is not None and len(texts) > 1:
        raise SparseSightError(
            f"method {text!r}: {published!r} is a complete setting, nothing can come before or after it"
        )
    parts = [_parse_one(part) for part in texts]
    return parts[0] if len(parts) == 1 else Compose(*parts)


def _parse_one(text: str) -> Method:
    written = re.fullmatch(r"\s*([\w.+:-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if written is None:
        raise SparseSightError(
            f"method {text!r}: write a name and options, such as sparsevlm+(retain=64, layers=(2, 6, 15))"
        )
    name, arguments = written.groups()
    source = f"f({arguments or ''})"
    try:
        call = ast.parse(source, mode="eval").body
        # One call that ends with the text: neither f(...)(...) nor a comment after it.
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        if ast.get_source_segment(source, call) != source:
            raise ValueError
        options = {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        if len(options) < len(call.keywords):  # ** or a name twice
            raise ValueError
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SparseSightError(
            f"method {text!r}: write options as name=value, each once, such as retain=64, layers=(2, 6, 15)"
        ) from error
    return make_method(name, **options)


def _value(node: ast.expr, inner: bool = False) -> Any:
    """A number, a text, True, False, None, or a list of these without deeper nesting.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, inner=True) if isinstance(node.operand, ast.Constant) else None
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Tuple | ast.List) and not inner:
        return tuple(_value(element, inner=True) for element in node.elts)
    raise ValueError(f"not a plain value: {type(node).__name__}")


def from_dict(data: Mapping[str, Any]) -> Method:
    """The inverse of :meth:`Method.to_dict`.

    Raises:
        SparseSightError: as :func:`make_method`, and for data that is not a method.
    """
    options = _fields(data)
    name = options.pop("method", "")
    if name != Compose.name:
        return make_method(name, **options)
    parts = options.pop("parts", ())
    if options or not isinstance(parts, list | tuple):
        raise SparseSightError(
            f"method {Compose.name!r}: give its methods as a list of objects, 'parts', and nothing else; found "
            f"{brief(options or parts)}"
        )
    fields_of = [_fields(part) for part in parts]
    if any(part.get("method") == Compose.name for part in fields_of):
        raise SparseSightError(f"method {Compose.name!r}: its parts are single methods, not compositions")
    return Compose(*(from_dict(part) for part in fields_of))


def _fields(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise SparseSightError(
            f"method {brief(data)}: give an object such as {{'method': 'sparsevlm+', 'retain': 64}}"
        )
    return dict(data)


__all__ = [
    "DART",
    "METHODS",
    "SCOPE",
    "CDPruner",
    "Compose",
    "DivPrune",
    "FastV",
    "FastVID",
    "FasterVLM",
    "Halves",
    "HoloV",
    "LastToken",
    "MMTok",
    "Method",
    "Narrow",
    "Pooling",
    "PriorTR",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "SparseVLMPlus",
    "ToMe",
    "Uniform",
    "VidCom2",
    "VisPruner",
    "VisionZip",
    "describe_published",
    "from_dict",
    "has_budget",
    "is_published",
    "make_method",
    "parse",
]
