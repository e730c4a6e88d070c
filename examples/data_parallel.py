"""Serve one model on several devices: vLLM's data parallelism with the plugin, and questions that reach every replica.

    python examples/data_parallel.py                                              # two replicas of the bundled model
    python examples/data_parallel.py --model llava-hf/llava-1.5-7b-hf --replicas 8

This starts `sparsesight serve MODEL --retain N --data-parallel-size REPLICAS`, sends it the bundled questions all
at once, and reports how many each replica answered. In production only that command is needed: vLLM's server
distributes requests by load. With --in-turn each request names its replica instead.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from sparsesight import bundled


def main() -> None:
    arguments = parse()
    address = f"http://127.0.0.1:{arguments.port}"
    command = [
        *(sys.executable, "-m", "sparsesight", "serve", arguments.model),
        *("--retain", str(arguments.retain), "--data-parallel-size", str(arguments.replicas)),
        *("--host", "127.0.0.1", "--port", str(arguments.port)),
        *arguments.flags,
    ]
    print(" ".join(command), flush=True)
    server = subprocess.Popen(command)
    try:
        wait(server, address)
        answers = asyncio.run(ask(address, arguments.replicas if arguments.in_turn else 0))
        right = sum(answer == wanted for answer, wanted in answers)
        print(f"{len(answers)} questions, {right} answers as expected")
        for replica, count in sorted(finished(address).items()):
            print(f"replica {replica} answered {count}")
    finally:
        server.terminate()
        server.wait(60)


def wait(server: subprocess.Popen[bytes], address: str) -> None:
    """Until the server is ready."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"the server ended with status {server.returncode}")


async def ask(address: str, replicas: int) -> list[tuple[str, str]]:
    """Answers to the bundled questions, and those that the bundled model gives without pruning.

    The questions go to so many replicas in turn, or with 0 wherever the server sends them.
    """
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=600)
    model = (await client.models.list()).data[0].id

    async def one(number: int, picture: Path, entry: dict[str, str]) -> tuple[str, str]:
        data = base64.b64encode(picture.read_bytes()).decode()
        content: Any = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"type": "text", "text": entry["question"]},
        ]
        completion = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=16,
            extra_body={"add_special_tokens": True},
            extra_headers={"X-data-parallel-rank": str(number % replicas)} if replicas else None,
        )
        return (completion.choices[0].message.content or "").strip(), entry["answer"]

    asked = bundled.picture_questions()
    every = [(picture, entry) for picture in bundled.pictures() for entry in asked[picture.name]]
    return await asyncio.gather(*(one(number, *pair) for number, pair in enumerate(every)))


def finished(address: str) -> Counter[str]:
    """How many requests each replica has finished, from the server's own metrics."""
    text = urllib.request.urlopen(f"{address}/metrics", timeout=60).read().decode()
    counts: Counter[str] = Counter()
    for labels, value in re.findall(r"^vllm:request_success_total\{([^}]*)\} (\S+)$", text, re.MULTILINE):
        replica = re.search(r'engine="(\d+)"', labels)
        counts[replica[1] if replica else "?"] += int(float(value))
    return counts


def parse() -> argparse.Namespace:
    """The command line; what it does not know goes to vLLM's server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="bundled", help="name or folder (default: bundled)")
    add("--replicas", type=int, default=2, help="(default: 2)")
    add("--in-turn", action="store_true", help="questions go to the replicas in turn, whatever their load")
    add("--retain", type=int, default=64, help="visual tokens per layer (default: 64)")
    add("--port", type=int, default=8000, help="(default: 8000)")
    arguments, arguments.flags = parser.parse_known_args()
    return arguments


if __name__ == "__main__":
    main()
