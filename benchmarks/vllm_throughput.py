"""The throughput of bursts of requests: vLLM with the plugin and without it, alternating in one process.

    python benchmarks/vllm_throughput.py --out benchmarks/results/vllm

in the environment of `make test-vllm`. All requests of a burst arrive at once; each is a picture of 576 visual tokens
and --text other tokens to a random LLaVA. Writes throughput-textN.json (every burst) and throughput-textN.md; a run
that was stopped goes on where it was, and further --requests or --turns are added.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from serving import engines, figures, presenting
from serving.store import Store
from serving.traffic import burst

from sparsesight.methods import SparseVLMPlus
from sparsesight.random_models import Shape


def main() -> None:
    arguments = parse()
    shape = Shape.parse(arguments.shape + f",text={arguments.text}")
    methods = {retain: SparseVLMPlus(retain) for retain in arguments.retain}
    for method in methods.values():  # what cannot be is refused before a model is made
        figures.limits(shape, method, arguments.tokens)
    settings = {
        "model": str(shape),
        "visual tokens": shape.visual,
        "output tokens": arguments.tokens,
        "step": f"{arguments.step} tokens at most",
        "KV cache": f"{arguments.kv_gb} GB",
        "dtype": arguments.dtype,
        "threads": arguments.threads,
    }
    name = f"throughput-text{arguments.text}"
    store = Store(arguments.out / f"{name}.json", settings)
    planned = [
        (turn, requests, retain)
        for turn in range(arguments.turns)
        for requests in arguments.requests
        for retain in random.Random(f"{turn} {requests}").sample(
            [None, *arguments.retain], 1 + len(arguments.retain)
        )
    ]
    missing = [run for run in planned if not store.has(turn=run[0], requests=run[1], retain=run[2])]
    if missing:
        engines.prepare(arguments.threads, arguments.kv_gb)
        measure(arguments, shape, methods, store, missing)
    rows = figures.rows(store.runs, shape, methods)
    page = presenting.throughput(settings, store.data["made_with"], rows)
    (arguments.out / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def measure(
    arguments: argparse.Namespace,
    shape: Shape,
    methods: dict[int, SparseVLMPlus],
    store: Store,
    missing: list[tuple[int, int, int | None]],
) -> None:
    """Run the bursts that are not in the store."""
    dtype = getattr(torch, arguments.dtype)
    given = {
        "max_model_len": shape.visual + shape.text + arguments.tokens,
        "max_num_seqs": max(arguments.requests),
        "max_num_batched_tokens": arguments.step,
    }
    with tempfile.TemporaryDirectory() as folder:
        engines.save_random(shape, Path(folder), dtype)
        vanilla = engines.open_engine(Path(folder), None, dtype, **given)
        sparse = engines.open_engine(Path(folder), methods[arguments.retain[0]], dtype, **given)
    prompts = engines.pictured(shape, max(arguments.requests))
    for retain in (None, *arguments.retain):  # to warm up
        burst(
            vanilla if retain is None else sparse,
            prompts[:2],
            engines.sampling(2, retain),
        )
    store.made_with({"command": command(), **engines.machine(dtype, arguments.threads)})
    for done, (turn, requests, retain) in enumerate(missing, 1):
        llm = vanilla if retain is None else sparse
        before = engines.pruned(llm)
        found = burst(llm, prompts[:requests], engines.sampling(arguments.tokens, retain))
        if engines.pruned(llm) - before != (0 if retain is None else requests):
            sys.exit(
                f"of {requests} requests {engines.pruned(llm) - before} were pruned: --step {arguments.step} is too "
                f"small, or --kv-gb {arguments.kv_gb} makes vLLM preempt"
            )
        store.keep(
            {
                "turn": turn,
                "requests": requests,
                "retain": retain,
                **rounded(asdict(found)),
            }
        )
        which = "vanilla" if retain is None else f"retain {retain}"
        print(
            f"{done}/{len(missing)}: turn {turn}, {requests} requests, {which}: {found.wall:.1f} s",
            flush=True,
        )


def rounded(run: dict[str, Any]) -> dict[str, Any]:
    """Seconds to a tenth of a millisecond."""
    lists = {k: [round(x, 4) for x in run[k]] for k in ("first", "first_cpu")}
    return {**run, **lists, "wall": round(run["wall"], 4), "cpu": round(run["cpu"], 4)}


def command() -> str:
    """What was typed."""
    return " ".join(["python", "benchmarks/vllm_throughput.py", *sys.argv[1:]])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--requests", type=counts, default=[32, 128], help="sizes of bursts (default: 32,128)")
    add("--retain", type=counts, default=[192, 128, 64], help="budgets (default: 192,128,64)")
    add("--turns", type=int, default=3, help="how often each burst is sent to each engine (default: 3)")
    add("--text", type=int, default=24, help="tokens of the prompt that are not visual (default: 24)")
    add("--tokens", type=int, default=8, help="output tokens of a request (default: 8)")
    add("--shape", default="layers=24,hidden=1024,ffn=2816,visual=576", help="of the random model")
    add("--step", type=int, default=4096, help="vLLM's --max-num-batched-tokens (default: 4096)")
    add("--kv-gb", type=int, default=6, help="KV cache of each of the two engines, GB (default: 6)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: float32)")
    add("--threads", type=int, default=1, help="of each engine (default: 1)")
    arguments = parser.parse_args()
    for name in ("turns", "text", "tokens", "step", "kv_gb", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: 1 or more")
    return arguments


def counts(text: str) -> list[int]:
    """Whole positive numbers between commas."""
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive whole numbers between commas")
    return found


if __name__ == "__main__":
    main()
