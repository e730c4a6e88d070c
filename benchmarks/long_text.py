"""The cost of scoring when long text follows the picture: the raters' rows alone, beside all text rows.

    python benchmarks/long_text.py --out benchmarks/results/long-text.json

A random LLaVA and SparseVLM+. "All rows" scores the whole text and ignores what does not judge, as versions before the
raters were picked out did. Both and the dense model take turns in one process; times are medians, ratios are medians
within a turn, on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sparsesight import Method, SparseVLMPlus, sparsify
from sparsesight.bench.machine import environment
from sparsesight.bench.timing import mark, milliseconds
from sparsesight.core.stage import StageInput
from sparsesight.random_models import Shape, random_llava


@dataclass(frozen=True)
class Few(SparseVLMPlus):
    """SparseVLM+ with so many raters as are asked for: random embeddings make half of the text raters."""

    judges: int = 7

    def select_raters(self, visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor) -> Tensor:
        return text_mask & (text_mask.cumsum(1) <= self.judges)


@dataclass(frozen=True)
class AllRows(Few):
    """The same scores from all text rows."""

    def score(self, stage: StageInput) -> Tensor:
        return super().score(replace(stage, rater_count=stage.rater.shape[1]))


def prefill(
    model: Any, prompt: dict[str, Tensor], method: Method | None
) -> tuple[dict[str, float], list[Any]]:
    """Milliseconds of one prefill and of its scoring, by both clocks; and what was kept."""
    device = prompt["input_ids"].device
    if method is None:
        start = mark(device)
        model(**prompt, use_cache=True, logits_to_keep=1)
        wall, cpu = milliseconds(start, mark(device))
        return {"ms": wall, "cpu_ms": cpu}, []
    with sparsify(model, method) as run, run.measure_sections() as sections:
        start = mark(device)
        model(**prompt, use_cache=True, logits_to_keep=1)
        wall, cpu = milliseconds(start, mark(device))
    return {"ms": wall, "cpu_ms": cpu, "scoring_ms": 1e3 * sections["scoring"]}, run.kept


def measure(shape: Shape, retain: int, repeats: int) -> dict[str, Any]:
    """All three, in turns."""
    model, prompt = random_llava(shape, torch.float32, "cpu")
    runs = {"dense": None, "all rows": AllRows(retain), "raters": Few(retain)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    kept: dict[str, list[Any]] = {}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, method in runs.items():
                times, kept[name] = prefill(model, prompt, method)
                if turn:
                    found[name].append(times)
    same = all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for x, y in zip(kept["all rows"], kept["raters"], strict=True)
        for a, b in zip(x, y, strict=True)
    )
    row: dict[str, Any] = {
        name: {key: median(x[key] for x in all_) for key in all_[0]} for name, all_ in found.items()
    }
    row["same tokens kept"] = same
    for name in ("ms", "cpu_ms"):
        pairs = zip(found["all rows"], found["raters"], strict=True)
        row[f"all rows / raters, {name}"] = median(a[name] / b[name] for a, b in pairs)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=int, default=4000)
    parser.add_argument("--widths", default="256,1024")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--retain", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for width in map(int, given.widths.split(",")):
        shape = f"layers={given.layers},hidden={width},ffn={math.ceil(width * 11 / 4)},heads={width // 64}"
        shape += f",text={given.text}"
        rows[width] = measure(Shape.parse(shape, visual=576), given.retain, given.repeats)
        print(width, json.dumps(rows[width]), flush=True)
    if given.out:
        result = {
            "environment": environment("cpu", torch.float32),
            "command": vars(given) | {"out": None},
            "widths": rows,
        }
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
