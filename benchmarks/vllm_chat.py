"""Chats in vLLM with its defaults on: the time to the first token of every turn, pruned and not, in one process.

    python benchmarks/vllm_chat.py --out benchmarks/results/vllm

in the environment of `make test-vllm`. Vanilla vLLM and the plugin hold the same random LLaVA (576 visual tokens a
picture), all with prefix caching and chunked prefill on, vLLM's own step size and the same size of blocks; every budget
has its engine. They lead the same chats, turn by turn, in an order that changes from round to round. Every chat begins
with an empty cache, and its prompts hold the answers of the turns before. Writes chat-METHOD-MODEL-questionN.json
(every turn) and the same as .md; a run that was stopped goes on, and further --rounds are added.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import chats, engines, figures, presenting
from serving.chats import Kind
from serving.store import Store

from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS
from sparsesight.random_models import Shape

BLOCK = 32  # tokens of a block of keys, the fewest that vLLM's kernels for CPUs take


def main() -> None:
    arguments = parse()
    shape = Shape.parse(f"{arguments.shape},visual=576,text={arguments.question + 6}")
    settings = {
        "method": arguments.method,
        "model": str(shape),
        "visual tokens of a picture": shape.visual,
        "system prompt": arguments.system,
        "question": arguments.question,
        "answer": arguments.answer,
        "block": BLOCK,
        "threads": arguments.threads,
    }
    kind_of = METHODS[arguments.method]
    name = f"chat-{arguments.method.replace('+', '-plus')}-{shape.layers}x{shape.hidden}-question{arguments.question}"
    store = Store(arguments.out / f"{name}.json", settings)
    kinds = [kind for kind in chats.kinds(arguments.system) if kind.name in arguments.chats]
    missing = [
        (number, kind)
        for number in range(arguments.rounds)
        for kind in kinds
        if not store.has(round=number, chat=kind.name)
    ]
    if missing:
        engines.prepare(arguments.threads, 1)
        measure(arguments, shape, store, missing)
    rows = figures.chats(store.runs, chats.kinds(arguments.system))
    limits = {r: figures.block_limit(shape, kind_of(r), BLOCK) for r in arguments.retain}
    page = presenting.chats(settings, store.data["made_with"], rows, limits)
    (arguments.out / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def measure(
    arguments: argparse.Namespace, shape: Shape, store: Store, missing: list[tuple[int, Kind]]
) -> None:
    """Lead the chats that are not in the store."""
    defaults = {
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "block_size": BLOCK,
        "max_model_len": 4096,
        "max_num_seqs": 8,
        "limit_mm_per_prompt": {"image": 5},
        "mm_processor_cache_gb": 1,
    }
    budgets = [None, *arguments.retain]
    with tempfile.TemporaryDirectory() as folder:
        engines.save_random(shape, Path(folder), torch.float32)
        methods = [None if retain is None else METHODS[arguments.method](retain) for retain in budgets]
        opened = [engines.open_engine(Path(folder), x, torch.float32, **defaults) for x in methods]
    params = engines.sampling(arguments.answer)
    params.allowed_token_ids = list(range(*chats.WORDS))  # no answer may mark a turn

    def lead(number: int, kind: Kind) -> None:
        for llm in opened:
            llm.reset_prefix_cache()
            llm.llm_engine.reset_mm_cache()
        before = [engines.pruned(llm) for llm in opened]
        order = range(len(opened)) if number % 2 else range(len(opened))[::-1]
        found = chats.play(
            opened, kind, f"{number} {kind.name}", arguments.question, params, noise, tuple(order)
        )
        for llm, retain, earlier, turns in zip(opened, budgets, before, found, strict=True):
            pruned = engines.pruned(llm) - earlier
            if pruned != (0 if retain is None else kind.pictures):
                sys.exit(f"{kind.title}: {pruned} of {kind.pictures} pictures were pruned")
            if number >= 0:
                store.keep(
                    {
                        "round": number,
                        "chat": kind.name,
                        "retain": retain,
                        "pruned": pruned,
                        **chats.summary(turns),
                    }
                )
            which = "vanilla" if retain is None else f"retain {retain}"
            print(
                f"round {number}, {kind.title}, {which}: {sum(x.first_cpu for x in turns):.2f} s", flush=True
            )

    for kind in {kind.name: kind for _, kind in missing}.values():  # to warm up
        lead(-1, kind)
    store.made_with({"command": command(), **engines.machine(torch.float32, arguments.threads)})
    for number, kind in missing:
        lead(number, kind)


def noise(choose: random.Random) -> Any:
    """A picture of random pixels."""
    from PIL import Image

    pixels = np.random.default_rng(choose.randrange(1 << 30)).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def command() -> str:
    """What was typed."""
    return " ".join(["python", "benchmarks/vllm_chat.py", *sys.argv[1:]])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--method", choices=sorted(METHODS), default=DEFAULT, help=f"of the plugin (default: {DEFAULT})")
    add("--retain", type=int, nargs="+", default=[192, 64], help="budgets (default: 192 64)")
    names = [kind.name for kind in chats.kinds(1)]
    add("--chats", nargs="+", choices=names, default=names, help="which of them (default: all)")
    add("--rounds", type=int, default=8, help="how often each chat is led (default: 8)")
    add("--system", type=int, default=1500, help="tokens of the system prompt (default: 1500)")
    add("--question", type=int, default=24, help="words of a question (default: 24)")
    add("--answer", type=int, default=16, help="tokens of an answer (default: 16)")
    add("--shape", default="layers=8,hidden=512,ffn=1408", help="of the random model")
    add("--threads", type=int, default=1, help="of both engines (default: 1)")
    arguments = parser.parse_args()
    for name in ("rounds", "system", "question", "answer", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: 1 or more")
    return arguments


if __name__ == "__main__":
    main()
