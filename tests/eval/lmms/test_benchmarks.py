"""The table of benchmarks and the page about it say the same; needs no lmms-eval."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.lmms.prompt_templates import mmbench_prompt

PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md"


def rows() -> dict[str, str]:
    """Line of the page's table by the name of each benchmark in it."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name: line for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if not name.endswith("_words")])
def test_the_page_has_every_benchmark(name: str) -> None:
    row, line = BENCHMARKS[name], rows()[name]
    published = re.match(r"[\d.]+", line.split("|")[4].strip())
    assert (float(published[0]) if published else None) == row.published
    assert ("API key" in line) == row.judged
    assert all(f"`{task}`" in line or "ours" in line for task in row.tasks)


@pytest.mark.parametrize("empty", ["nan", "None", "", None, float("nan")])
def test_an_empty_cell_of_mmbench_is_left_out(empty: object) -> None:
    doc = {"hint": empty, "question": "Which?", "A": "one", "B": "two", "C": empty, "D": empty}
    request = "Answer with the option's letter from the given choices directly."
    assert mmbench_prompt(doc) == f"Which?\nA. one\nB. two\n{request}"
    assert mmbench_prompt({**doc, "hint": "Look."}) == f"Look.\nWhich?\nA. one\nB. two\n{request}"
