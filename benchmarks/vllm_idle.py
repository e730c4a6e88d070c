"""The plugin's overhead on requests without pictures: vLLM with and without it, alternating step by step.

    python benchmarks/vllm_idle.py --out benchmarks/results/vllm

in the environment of `make test-vllm`. Both engines hold the same model in this process and answer the same requests; a
ratio is that of two steps, or two arrivals of a request, which follow each other. There are two states of a server, as
the plugin can tell at once that it has nothing to do only where nothing has been pruned: first neither engine has seen
a picture, then both have answered a request with one. The small bundled model is the hardest case, as its steps are
short; --shape takes a random one. Writes idle-MODEL.json (every step) and idle-MODEL.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from serving import engines, figures, presenting
from serving.store import Store
from serving.traffic import Clocks, in_step

from sparsesight.bundled import MODEL_PATH
from sparsesight.methods import SparseVLMPlus
from sparsesight.random_models import Shape

METHOD = SparseVLMPlus(64)
PICTURE_TOKENS = 4  # output tokens of the request with a picture
BEFORE, AFTER = "no picture yet", "after a picture"
STATES = (BEFORE, AFTER)


def main() -> None:
    arguments = parse()
    shape = Shape.parse(arguments.shape) if arguments.shape else None
    settings = {
        "model": "bundled" if shape is None else str(shape),
        "requests": arguments.requests,
        "prompt tokens": arguments.prompt,
        "output tokens": arguments.tokens,
        "threads": arguments.threads,
    }
    name = "idle-bundled" if shape is None else f"idle-{shape.layers}x{shape.hidden}"
    store = Store(arguments.out / f"{name}.json", settings)
    missing = [
        (state, turn)
        for state in STATES
        for turn in range(arguments.turns)
        if not store.has(state=state, turn=turn)
    ]
    if missing:
        engines.prepare(arguments.threads, 1)
        measure(arguments, shape, store, missing)
    page = presenting.idle(settings, store.data["made_with"], figures.idle(store.runs, STATES))
    (arguments.out / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def measure(
    arguments: argparse.Namespace, shape: Shape | None, store: Store, missing: list[tuple[str, int]]
) -> None:
    """Run the turns that are not in the store."""
    asked = shape or Shape()  # as many visual tokens as the bundled model's
    length = max(arguments.prompt + arguments.tokens, asked.visual + asked.text + PICTURE_TOKENS)
    given = {
        "max_model_len": length,
        "max_num_seqs": arguments.requests,
        "max_num_batched_tokens": max(2048, length, arguments.requests * arguments.prompt),
    }
    with tempfile.TemporaryDirectory() as folder:
        if shape is not None:
            engines.save_random(shape, Path(folder), torch.float32)
        model = MODEL_PATH if shape is None else Path(folder)
        pair = [engines.open_engine(model, x, torch.float32, **given) for x in (None, METHOD)]
    prompts = engines.worded(arguments.prompt, arguments.requests)
    in_step(pair, prompts, engines.sampling(8))  # to warm up
    store.made_with({"command": command(), **engines.machine(torch.float32, arguments.threads)})
    for state, turn in missing:
        if state == AFTER and not engines.pruned(pair[1]):
            in_step(pair, engines.pictured(asked, 1), engines.sampling(PICTURE_TOKENS))
            in_step(pair, prompts, engines.sampling(8))  # to warm up once more
        pictures = engines.pruned(pair[1])
        if pictures != (state == AFTER):
            sys.exit(f"{state}: the plugin has pruned {pictures} prompts")
        vanilla, other = in_step(pair, prompts, engines.sampling(arguments.tokens))
        store.keep({"state": state, "turn": turn, "vanilla": rounded(vanilla), "sparsesight": rounded(other)})
        print(f"{state}, turn {turn}: {sum(vanilla.wall):.2f} s and {sum(other.wall):.2f} s", flush=True)


def rounded(clocks: Clocks) -> dict[str, list[float]]:
    """Seconds to a tenth of a microsecond."""
    return {name: [round(x, 7) for x in seconds] for name, seconds in asdict(clocks).items()}


def command() -> str:
    """What was typed."""
    return " ".join(["python", "benchmarks/vllm_idle.py", *sys.argv[1:]])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--shape", default="", help="of a random model, layers=24,hidden=1024 (default: the bundled one)")
    add("--requests", type=int, default=8, help="answered together (default: 8)")
    add("--prompt", type=int, default=64, help="tokens of a prompt (default: 64)")
    add("--tokens", type=int, default=256, help="output tokens of a request (default: 256)")
    add("--turns", type=int, default=8, help="how often they are asked in each state (default: 8)")
    add("--threads", type=int, default=1, help="of each engine (default: 1)")
    arguments = parser.parse_args()
    for name in ("requests", "prompt", "tokens", "turns", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: 1 or more")
    return arguments


if __name__ == "__main__":
    main()
