"""What was found, as rows, as the agreement of kept tokens, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def summary(entries: Sequence[Any]) -> list[dict[str, Any]]:
    """One row for each setting: processor time, its speed-up over the dense model of its process, sizes."""
    dense = {entry.worker.name: entry for entry in entries if not entry.options}
    rows = []
    for entry in entries:
        row: dict[str, Any] = {"contestant": entry.worker.name, "setting": entry.name}
        if "failed" in entry.seen:
            rows.append({**row, "failed": entry.seen["failed"]})
            continue
        reference = dense[entry.worker.name]
        if reference.turns:
            ratios = [a["cpu_s"] / b["cpu_s"] for a, b in zip(reference.turns, entry.turns, strict=True)]
            row["speedup"] = {"min": min(ratios), "median": median(ratios), "max": max(ratios)}
        for key in ("cpu_s", "wall_s"):
            times = [turn[key] for turn in entry.turns]
            row[key] = {"min": min(times), "median": median(times), "max": max(times)}
        for key in ("visual_per_layer", "cache_bytes", "peak_bytes", "token"):
            row[key] = entry.seen[key]
        rows.append(row)
    return rows


def agreement(entries: Sequence[Any]) -> list[dict[str, Any]]:
    """For each pruned setting of a peer, how many of the tokens that it keeps ours keeps as well, stage by stage."""
    by_name = {entry.name: entry for entry in entries if not entry.twin and entry.options}
    found = []
    for entry in entries:
        if not entry.twin or "failed" in entry.seen or "failed" in by_name[entry.twin].seen:
            continue
        twin = by_name[entry.twin].seen
        stages: list[dict[str, Any]] = [
            {
                "theirs": len(theirs),
                "ours": len(mine),
                "both": len({*theirs} & {*mine}),
                "margin": margin,
                "only_theirs": sorted({*theirs} - {*mine})[:8],
                "only_ours": sorted({*mine} - {*theirs})[:8],
            }
            for theirs, mine, margin in zip(entry.seen["kept"], twin["kept"], twin["margins"], strict=True)
        ]
        found.append({"contestant": entry.worker.name, "setting": entry.name, "stages": stages})
    return found


def table(rows: Sequence[dict[str, Any]], agreed: Sequence[dict[str, Any]], prompt: dict[str, int]) -> str:
    """Markdown: every setting of a peer, and below it ours with the same counts."""
    lines = [
        f"{prompt['visual']} visual and {prompt['text']} text tokens",
        "",
        "| contestant | setting | prefill, processor time | its dense | speed-up | visual tokens per layer | KV "
        "cache | peak memory | kept tokens that ours keeps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    together = {(x["contestant"], x["setting"]): x["stages"] for x in agreed}
    dense = {row["contestant"]: row for row in rows if row["setting"] == "dense"}
    for row in rows:
        who, what = row["contestant"], row["setting"]
        if "failed" in row:
            lines.append(f"| {who} | {what} | does not run: {row['failed']} | | | | | | |")
            continue
        time, ratio, layers = row["cpu_s"], row.get("speedup"), row["visual_per_layer"]
        base = dense[who].get("cpu_s")
        stages = together.get((who, what), [])
        cells = [
            who,
            what,
            f"{time['median']:.2f} s ({time['min']:.2f} to {time['max']:.2f})",
            "" if what == "dense" or base is None else f"{base['median']:.2f} s",
            "" if what == "dense" or ratio is None else f"{ratio['median']:.2f}x",
            f"{sum(layers) / len(layers):.0f}",
            f"{row['cache_bytes'] / 1e6:.0f} MB",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            ", ".join(f"{x['both']} of {x['theirs']}" for x in stages),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
