"""Token-reduction methods. One published method is one short file and one row of :data:`METHODS`."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..core.method import MAX_TEXT, Group, Method
from ..errors import SparseSightError, brief
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
from .published import SUFFIX, describe_published, has_budget, is_published, published_setting
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

GROUPS: dict[Group, str] = {
    "inside the language model": "after some of its layers, by what they read",
    "before the language model": "before its first layer",
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
        return published_setting(METHODS[method.removesuffix(SUFFIX)], options)
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
