"""Writes what `make bench-gpu` found into README, the guide and benchmarks/README.md, between marked lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plan import LLAVA_7B, METHODS, Run

BEGIN, END = "<!-- gpu: begin (make bench-gpu) -->", "<!-- gpu: end -->"
PAGES = ("README.md", "docs/limits.md", "benchmarks/README.md")
HEADS = (
    "visual tokens",
    "batch",
    "path",
    "method",
    "retain",
    "dense ms",
    "sparse ms",
    "prefill",
    "limit",
    "first token",
    "token",
    "KV cache",
)


def read(out: Path, runs: list[Run], states: Mapping[str, str]) -> dict[str, Any]:
    """All results: of each run its config and rows, or why it has none."""
    found: dict[str, Any] = {}
    for run in runs:
        file = out / run.name / "bench.json"
        done = states.get(run.name) == "done" and file.exists()
        found[run.name] = (
            json.loads(file.read_text("utf-8")) if done else {"why": states.get(run.name, "not run yet")}
        )
    return found


def write(root: Path, out: Path, runs: list[Run], states: Mapping[str, str], rehearsal: bool) -> None:
    """Put the tables into the pages below ``root``.

    Raises:
        ValueError: a rehearsal's numbers would get into the repository's pages, or a page has no place for a table.
    """
    if rehearsal and (root / ".git").exists():
        raise ValueError(
            "a rehearsal measures nothing: its numbers do not belong into the repository's pages"
        )
    results = read(out, runs, states)
    if not any("rows" in result for result in results.values()):
        return
    vllm = (out / "vllm" / "throughput-text24.md") if states.get("vllm") == "done" else None
    texts = {
        "README.md": readme(runs, results),
        "docs/limits.md": limits(results),
        "benchmarks/README.md": table(runs, results, vllm),
    }
    for page in PAGES:
        path = root / page
        before, rest = path.read_text("utf-8").split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        path.write_text(f"{before}{BEGIN}\n{texts[page]}\n{END}{after}", "utf-8")


def machine(results: Mapping[str, Any]) -> str:
    """GPU, versions and dates of the runs."""
    configs = [result["config"] for result in results.values() if "rows" in result]
    said = []
    for key in ("device", "cuda", "torch", "transformers", "sparsesight", "date"):
        values = sorted({str(config[key]) for config in configs if key in config})
        said += [f"{'' if key in ('device', 'date') else key + ' '}{' and '.join(values)}"] if values else []
    return ", ".join(said)


def readme(runs: list[Run], results: Mapping[str, Any]) -> str:
    """One line: the first method at the smallest picture, every batch."""
    plain = [run for run in runs if run.attention == "sdpa" and not run.fast and run.visual == runs[0].visual]
    speeds, first = [], METHODS.split(",")[0]
    for run in plain:
        rows = [r for r in results[run.name].get("rows", ()) if r["method"] == first]
        if rows:
            times = " / ".join(f"{row['prefill_speedup']:.2f}x" for row in rows)
            speeds.append(f"batch {run.batch}: {times}")
    return (
        f"On a GPU ({machine(results)}; random weights of a 7B model's shape): prefill with {plain[0].visual} visual "
        f"tokens, `{first}`, retain 33 % / 11 %, {', '.join(speeds)}."
    )


def limits(results: Mapping[str, Any]) -> str:
    missing = sorted(name for name, result in results.items() if "rows" not in result)
    rest = f" Not measured there: {', '.join(missing)}." if missing else ""
    return f"Measured on CPUs, and with random weights of a 7B model's shape on a GPU ({machine(results)}).{rest}"


def table(runs: list[Run], results: Mapping[str, Any], vllm: Path | None) -> str:
    lines = [
        f"Random LLaVA, `{LLAVA_7B}`; {machine(results)}. Medians in milliseconds; ratios: dense over sparse time; "
        "limit: the same of FLOPs. Each run's folder has all numbers with their spread.",
        "",
        f"| {' | '.join(HEADS)} |",
        f"| {' | '.join('---' for _ in HEADS)} |",
    ]
    for run in runs:
        result = results[run.name]
        path = "fast" if run.fast else run.attention
        if "rows" not in result:
            lines.append(
                f"| {run.visual} | {run.batch} | {path} | {result['why']} |{' |' * (len(HEADS) - 4)}"
            )
        for row in result.get("rows", ()):
            dense, sparse = row["token_dense_ms"], row["token_sparse_ms"]
            cells = (
                row["visual"],
                row["batch"],
                path,
                f"`{row['method']}`",
                row["retain"],
                f"{row['prefill_dense_ms']:.1f}",
                f"{row['prefill_sparse_ms']:.1f}",
                f"{row['prefill_speedup']:.2f}x",
                f"{row['macs_limit']:.2f}x",
                f"{row['first_token_speedup']:.2f}x",
                "-" if dense is None or sparse is None else f"{dense / sparse:.2f}x",
                f"{row['kv_sparse_bytes'] / row['kv_dense_bytes']:.0%}",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    if vllm is not None:
        lines += ["", f"Inside vLLM: [throughput](results/gpu/vllm/{vllm.name})."]
    return "\n".join(lines)
