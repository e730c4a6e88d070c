"""The JSON file of the results: every cell as soon as it is finished, and the numbers of every part.

A cell is one way of putting one list of questions to the model. It is kept as marks, `1` for a right answer and `0`
for a wrong one, in the order of `dataset.examples`, a space between scenes; any other figure can be made from these.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sparsesight.scenes.dataset import Example

SHORT = 120  # characters that a line of the file may have to hold a whole dict


class Store:
    """Results of one model on one version of the scenes.

    Args:
        path: of the file; what it holds about the same subject is kept, about another it is forgotten.
        subject: JSON-ready, what was probed.
        fresh: forget in any case.
    """

    def __init__(self, path: Path, subject: dict[str, Any], fresh: bool = False) -> None:
        self.path = path
        self.data: dict[str, Any] = {"subject": subject, "parts": {}, "cells": {}}
        if path.exists() and not fresh:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("subject") == subject:
                self.data = found

    @property
    def parts(self) -> dict[str, Any]:
        """Part -> its numbers and what they were made with."""
        parts: dict[str, Any] = self.data["parts"]
        return parts

    def marks(self, cell: str, examples: Sequence[Example]) -> np.ndarray | None:
        """The marks of a finished cell, bool [examples]; None if it is not, or was about other questions."""
        known = self.data["cells"].get(cell)
        if known is None or [len(scene) for scene in known.split()] != _per_scene(examples):
            return None
        return np.array([mark == "1" for mark in known.replace(" ", "")])

    def keep_marks(self, cell: str, examples: Sequence[Example], marks: np.ndarray) -> None:
        """Write a finished cell, bool [examples]."""
        text, start = [], 0
        for n in _per_scene(examples):
            text.append("".join("01"[int(mark)] for mark in marks[start : start + n]))
            start += n
        self.data["cells"][cell] = " ".join(text)
        self.save()

    def keep_part(self, part: str, numbers: dict[str, Any]) -> None:
        """Write the numbers of a part."""
        self.parts[part] = numbers
        self.save()

    def save(self) -> None:
        """Replace the file; whoever stops the run finds the old one or the new one, whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(_readable(self.data), encoding="utf-8")
        os.replace(draft, self.path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _readable(data: dict[str, Any]) -> str:
    """Indented JSON in which what holds a few plain values, such as an estimate, takes one line."""

    def joined(found: re.Match[str]) -> str:
        line = " ".join(found[0].split())
        return line if len(line) <= SHORT else found[0]

    return re.sub(r"\{[^{}\[\]]*\}", joined, json.dumps(data, indent=1, ensure_ascii=False)) + "\n"


def _per_scene(examples: Sequence[Example]) -> list[int]:
    """How many examples each scene has; those of one scene stand together."""
    return [len(list(some)) for _, some in groupby(examples, key=lambda example: example.scene.seed)]
