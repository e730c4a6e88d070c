"""Thousands of mixed requests to a server that prunes, each answer compared with the one that its request gets alone.

    python benchmarks/vllm_soak.py --requests 10000 --out benchmarks/results/vllm/soak.json

Starts `sparsesight serve bundled` on the loopback address, with vLLM's defaults but small limits. Asks every question
of a fixed pool alone, on empty caches, then sends requests of all kinds at once: text, one picture, several, chats,
budgets of their own, streamed or whole, given up halfway, malformed, oversized, pictures that are new beside a refused
request with the same one, which are asked alone afterwards. Ends with code 1 if any answer is wrong, any refusal no
HTTP 4xx with its reason (in a stream that has begun: an error with such a code), if the server ends, its memory goes on
growing, no request was preempted or found a block that was partly filled, anything of a request is left at the end, or
the server does not end properly when it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
from soak.asking import Answer, Outcome, answer, compared, outcome
from soak.journal import Journal
from soak.pool import ANSWERED, MAX_LENGTH, Case, pool, sequence, with_answers
from soak.report import BLOCK, counted, environment, markdown, report
from soak.server import Server, serve

from sparsesight.methods import METHODS

FLAGS = (
    # Steps have room for two of the longest prompts, and many are asked at once: prompts come in parts, or wait.
    *(
        "bundled",
        "--max-num-seqs",
        "16",
        "--max-num-batched-tokens",
        "3072",
        "--enable-prompt-tokens-details",
    ),
    *("--max-model-len", str(MAX_LENGTH), "--limit-mm-per-prompt", '{"image": 2}'),
    *("--hf-overrides", '{"text_config": {"max_position_embeddings": 2048}}'),
    # Small ones, so that an answer often needs one more, which it then takes from a request that came later.
    *("--block-size", str(BLOCK)),
    # Room for about 70 prepared pictures, so that new ones push out others.
    *("--mm-processor-cache-gb", "0.1"),
)


def main() -> None:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends with this program
    method = METHODS[arguments.method]
    stages = len(method().depths)
    cases = pool(arguments.seed, [200 >> i for i in range(stages)], arguments.pool)
    log = arguments.log or Path(tempfile.mkdtemp()) / "server.log"
    print(f"starting the server; its log is {log}", flush=True)
    flags = [*FLAGS, "--method", arguments.method, "--retain", "64"]
    flags += ["--kv-cache-memory-bytes", str(int(arguments.kv_mb * 2**20))]
    if arguments.kv_groups:
        flags += ["--additional-config", '{"sparsesight": {"kv_groups": true}}']
    if arguments.eager:
        flags.append("--enforce-eager")
    names = ("method", "requests", "pool", "seed")
    sent = {name: getattr(arguments, name) for name in names}
    journal = Journal.opened(arguments.journal, sent)
    if len(journal.outcomes) >= arguments.requests:
        sys.exit(f"{arguments.journal} has all of {arguments.requests} requests: give another --journal")
    with serve(log, flags) as (server, command):
        soaked = asyncio.run(Soak(server, cases, arguments, journal, shlex.join(flags)).run())
    status = server.process.returncode  # once it was told to end
    if status not in (0, -signal.SIGTERM):
        soaked["failures"].append(f"the server, told to end, ended with status {status}")
    result = {
        "command": shlex.join(["python", "benchmarks/vllm_soak.py", *sys.argv[1:]]),
        "server": shlex.join(command),
        "server_status": status,
        "method": f"{arguments.method} at 64" + (", kv_groups" if arguments.kv_groups else ""),
        "concurrency": arguments.concurrency,
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

    def __init__(
        self,
        server: Server,
        cases: dict[str, list[Case]],
        arguments: argparse.Namespace,
        journal: Journal,
        flags: str,
    ) -> None:
        self.server, self.cases, self.arguments, self.journal = server, cases, arguments, journal
        self.name = f"{time.strftime('%H:%M:%S')} {flags}"
        self.draw = random.Random(arguments.seed + 1 + len(journal.rounds))
        self.outcomes: dict[int, Outcome] = {}  # of the present round, by number of the request
        self.done = 0  # requests of rounds before it, to this server
        self.samples: list[dict[str, float]] = []
        self.running = True

    async def run(self) -> dict[str, Any]:
        """Everything, as JSON-ready numbers."""
        async with openai.AsyncOpenAI(
            base_url=f"{self.server.address}/v1", api_key="none", max_retries=0, timeout=600
        ) as client:
            solo = dict(self.journal.solo)
            if not solo:
                for kind in ANSWERED:
                    for case in self.cases[kind]:
                        await self._alone(client, with_answers(case, solo), solo)
                self.journal.know(solo)
            self.cases = {kind: [with_answers(x, solo) for x in own] for kind, own in self.cases.items()}
            known = [case for kind in ANSWERED for case in self.cases[kind]]
            print(f"{len(solo)} solo answers", flush=True)
            before = await asyncio.to_thread(self.server.state)
            todo = dict(enumerate(sequence(self.cases, self.arguments.requests, self.arguments.seed + 2)))
            begun = time.monotonic()
            sampler = asyncio.create_task(self._sample())
            done = self.journal.outcomes
            left = [number for number in todo if number not in done]
            late = False
            while left and not late:
                own, left = left[: self.arguments.round], left[self.arguments.round :]
                # A client that leaves while vLLM reads a picture that the engine does not have would make vLLM fail
                # the requests beside it ("cache drift"), with the plugin or without.
                await asyncio.gather(*(answer(client, case) for case in self.cases["two pictures"]))
                start = time.monotonic()
                await self._send(client, {i: todo[i] for i in own}, solo, begun)
                seconds = time.monotonic() - start
                late = len(self.outcomes) < len(own)
                ended = await self._drained()
                numbers = counted(await asyncio.to_thread(self.server.metrics))
                await self._judge(client, todo)
                self.journal.add(self.name, seconds, numbers, self.outcomes)
                wrong = sum(bool(x.wrong) for x in self.outcomes.values())
                self.done += len(self.outcomes)  # now, as samples count both
                print(f"{self.done} sent to this server, {wrong} wrong in this round", flush=True)
                self.outcomes = {}
            self.running = False
            await sampler
            again = [
                case.name for case in known if compared((await answer(client, case))[0], solo[case.name])[0]
            ]
            after = await asyncio.to_thread(self.server.state)
        minutes = self.arguments.minutes
        found = report(
            list(self.journal.outcomes.values()),
            self.samples,
            self.cases,
            len(todo),
            self.journal.seconds,
            minutes,
            before=before,
            after=after,
            ended=ended,
            again=again,
            numbers=self.journal.numbers,
        )
        return {"servers": self.journal.servers, **found}

    async def _alone(self, client: Any, case: Case, solo: dict[str, Answer], forget: bool = True) -> None:
        """Ask one case on empty caches."""
        if forget:
            await asyncio.to_thread(self.server.forget)
        solo[case.name], cached = await answer(client, case)
        if cached:
            raise RuntimeError(f"{case.name}: {cached} tokens were cached, though the cache was emptied")

    async def _judge(self, client: Any, sent: dict[int, Case]) -> None:
        """Ask alone what nobody knew the answer of: new pictures, of which emptied caches hold nothing."""
        await asyncio.to_thread(self.server.forget)
        for i, one in self.outcomes.items():
            if one.found is not None:
                right: dict[str, Answer] = {}
                await self._alone(client, sent[i], right, forget=False)
                wrong, deviation = compared(one.found, right[one.name])
                wrong = f"{one.name}: {wrong}" if wrong else ""
                self.outcomes[i] = replace(one, wrong=wrong, deviation=deviation, found=None)

    async def _send(self, client: Any, todo: dict[int, Case], solo: dict[str, Answer], begun: float) -> None:
        waiting = iter(todo.items())

        async def worker() -> None:
            for number, case in waiting:
                late = time.monotonic() - begun > 60 * self.arguments.minutes
                if late or self.server.process.poll() is not None:
                    return
                self.outcomes[number] = await outcome(client, case, solo, self.draw)

        await asyncio.gather(*(worker() for _ in range(self.arguments.concurrency)))

    async def _sample(self) -> None:
        while self.running:
            metrics = await asyncio.to_thread(self.server.metrics)
            memory = await asyncio.to_thread(self.server.memory)
            self.samples.append(
                {
                    "done": self.done + len(self.outcomes),
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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pool", type=int, default=40, help="different questions about one picture")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=60, help="send nothing more after this time")
    parser.add_argument("--round", type=int, default=1000, help="requests until new pictures are judged")
    parser.add_argument("--journal", type=Path, help="a file of rounds, JSON lines, to go on with")
    parser.add_argument("--kv-mb", type=float, default=24, help="of the KV cache; few, so that requests wait")
    parser.add_argument("--method", default="sparsevlm+", help="of the server, at 64 tokens")
    parser.add_argument("--kv-groups", action="store_true", help="with blocks for each stage")
    parser.add_argument("--eager", action="store_true", help="without compilation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--log", type=Path, help="the server's log")
    return parser.parse_args()


if __name__ == "__main__":
    main()
