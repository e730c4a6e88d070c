"""Settings files: a method as one JSON object, which ``sparsify``, the commands and vLLM read alike.

::

    {"sparsesight": {"method": "halves", "retain": 0.25}, "about": {"model": "bundled"}}

The entry ``sparsesight`` has the fields of a method as :func:`sparsesight.methods.from_dict` reads them, and a budget
also as the command line takes it ("64", "33%", "none" for every token). ``about`` says where the setting comes from,
and nothing reads it. The whole file is a value of vLLM's ``--additional-config``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core.budget import Retain
from .core.retain import parse_retain
from .errors import SparseSightError, brief
from .files import parse_json, read_text
from .method_names import DEFAULT
from .methods import Method, from_dict
from .suggestions import did_you_mean

KEY = "sparsesight"
ABOUT = "about"
DENSE = "none"
MAX_BYTES = 1 << 20  # of a file


def read_settings(file: str | os.PathLike[str]) -> Method:
    """The method of a settings file.

    Args:
        file: JSON as above.

    Raises:
        SparseSightError: no such file, no JSON object, another key than those above, or no method; the message names
            the file, the key, its value and what is possible.
    """
    if not isinstance(file, str | os.PathLike) or not os.fspath(file):
        raise SparseSightError(
            f"settings={brief(file)}: give the path of a settings file; a method goes in method="
        )
    path = Path(os.path.expanduser(os.fspath(file)))
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise SparseSightError(
            f"settings {brief(str(path))} cannot be read ({getattr(error, 'strerror', None) or error}): check the "
            "path"
        ) from None
    if size > MAX_BYTES:
        raise SparseSightError(f"settings {brief(str(path))} has {size:,} bytes: the limit is {MAX_BYTES:,}")
    text = read_text(path).removeprefix("\ufeff")  # which some editors put before UTF-8
    data = parse_json(text, dict, f"settings {path}")
    other = next((name for name in data if name not in (KEY, ABOUT)), None)
    if other is not None:
        raise SparseSightError(
            f"settings {path}: {brief(other)} is not read: the keys are {KEY!r}, an object with the method's fields, "
            f"and {ABOUT!r}{did_you_mean(other, [KEY, ABOUT])}"
        )
    entry = data.get(KEY)
    if not isinstance(entry, Mapping):
        raise SparseSightError(
            f'settings {path}: "{KEY}" is {brief(entry)}: give an object such as {{"method": "halves", "retain": 0.25}}'
        )
    try:
        return entry_method(entry)
    except SparseSightError as error:
        raise type(error)(f'settings {path}: "{KEY}": {error}') from error


def entry_method(fields: Mapping[str, Any]) -> Method:
    """The method of an entry ``sparsesight``; without a name it is the default.

    Raises:
        SparseSightError: naming the field and its value.
    """
    retain = fields.get("retain")
    if isinstance(retain, str):
        fields = {**fields, "retain": parse_budget(retain, "retain")}
    return from_dict({"method": DEFAULT, **fields})


def parse_budget(text: str, source: str) -> Retain:
    """A budget as the command line takes it; ``"none"`` is every token.

    Raises:
        SparseSightError: it is no budget; the message names ``source``.
    """
    return 1.0 if text.strip().lower() == DENSE else parse_retain(text, source)


def settings_json(method: Method, about: Mapping[str, Any]) -> str:
    """The text of a settings file; of the method's fields, those that differ from its defaults.

    Args:
        method: what :func:`read_settings` finds.
        about: where it comes from; JSON-ready.
    """
    fields = method.to_dict()
    if method.one_budget:
        usual = type(method)().to_dict()
        fields = {k: v for k, v in fields.items() if k in ("method", "retain") or v != usual[k]}
    return json.dumps({KEY: fields, ABOUT: dict(about)}, indent=1, ensure_ascii=False) + "\n"
