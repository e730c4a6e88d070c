"""Part "accuracy": exact greedy answers on every evaluation split, the picture whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from .answering import Examiner, some_examples
from .intervals import by_group
from .presenting import group_bars, group_table

SPLITS = ("test", "test-b", "occluded", "clutter")


def run(examiner: Examiner, arguments: Any) -> dict[str, Any]:
    """Estimates by split and group."""
    found = {}
    for split in tqdm(SPLITS, desc="accuracy", unit="split"):
        asked = some_examples(split, arguments.scenes)
        found[split] = by_group(examiner.marks(f"dense/{split}", examiner.own_pictures(asked)), asked)
    return {"splits": found}


def markdown(numbers: dict[str, Any]) -> str:
    """A table with a column for each split."""
    about = (
        "Share of exactly right answers, greedy, nothing pruned, with a 95 % interval (bootstrap over scenes). "
        "*single-object*: the kinds that ask about one object. *small*, *large*: the size of the object that the "
        "question is about, the first one of two; *no object*: none is there.\n\n"
    )
    return about + group_table(numbers["splits"])


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bars by group and split."""
    group_bars(numbers["splits"], "Whole picture: exact answers, 95 % intervals", path)
