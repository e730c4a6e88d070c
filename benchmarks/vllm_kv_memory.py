"""How many requests fit into a KV cache of vLLM: vanilla, pruned, and pruned with KV groups per stage.

    python benchmarks/vllm_kv_memory.py --out benchmarks/results/vllm/kv_memory.json

Every case is an engine of its own, in this process, with prefix caching and chunked prefill on, as vLLM has them.
Requests with one picture each (576 visual tokens), all different, arrive at once, and more than fit; the engine runs
until none is admitted any more. Counted are the requests that run by then, before any
was preempted, and the blocks they hold. The decoder has random weights: only its shape matters here.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The engine in this process, where its scheduler can be asked; and no KV space other than --kv-mib.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)

import numpy as np
from PIL import Image

from sparsesight import bundled

CALM = 3  # steps that admit nobody, after which nobody will be
BLOCK = 32  # tokens; the CPU backend wants a multiple of 32


@dataclass
class Case:
    """What was asked for, and what came of it."""

    retain: int | None  # None: vanilla
    kv_groups: bool
    fit: int = 0  # requests that run at a time
    bytes_per_request: float = 0.0
    pruned: int = 0  # prompts


def measure(case: Case, arguments: argparse.Namespace) -> None:
    """Fill in what comes of a case."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    entry = {"method": arguments.method, "retain": case.retain, "kv_groups": case.kv_groups}
    llm = LLM(
        str(bundled.MODEL_PATH),
        load_format="dummy",
        hf_overrides={"text_config": {"num_hidden_layers": arguments.layers}},
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=True,
        max_model_len=1024,
        max_num_seqs=arguments.requests,
        max_num_batched_tokens=2**15,  # few steps, as answers grow while others are admitted
        enable_chunked_prefill=True,
        block_size=BLOCK,
        kv_cache_memory_bytes=arguments.kv_mib * 2**20,
        limit_mm_per_prompt={"image": 1},
        additional_config={} if case.retain is None else {"sparsesight": entry},
        seed=0,
    )
    core = llm.llm_engine
    scheduler = core.engine_core.engine_core.scheduler
    noise = np.random.default_rng(0)
    sampling = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    for i in range(arguments.requests):
        picture = Image.fromarray(noise.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        prompt = {
            "prompt": "USER: <image>\nWhat color is it? ASSISTANT:",
            "multi_modal_data": {"image": picture},
        }
        core.add_request(str(i), prompt, sampling)
    pool = scheduler.kv_cache_manager.block_pool
    pruner = core.model_executor.driver_worker.worker.model_runner.get_model().pruner
    held = calm = 0
    while calm < CALM:
        core.step()
        if any(request.num_preemptions for request in scheduler.requests.values()):
            break
        # Those that wait for room of the encoder's have a few blocks, and no answer.
        fit = sum(x.num_computed_tokens >= x.num_prompt_tokens for x in scheduler.running)
        calm = 0 if fit > case.fit else calm + 1
        if not calm:
            case.fit = fit
            held = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()  # one block is nobody's
            case.pruned = 0 if pruner is None else pruner.tally.pruned
    if not scheduler.waiting:
        raise SystemExit(f"all of {arguments.requests} requests fit: give more --requests, or less --kv-mib")
    case.bytes_per_request = held / case.fit * arguments.kv_mib * 2**20 / pool.num_gpu_blocks
    expected = 0 if case.retain is None else case.fit
    if case.pruned != expected:
        raise SystemExit(f"{case}: {expected} prompts should have been pruned")
    core.engine_core.shutdown()
    del llm, core, scheduler, pruner, pool
    gc.collect()
    cleanup_dist_env_and_memory()


def table(cases: list[Case]) -> str:
    """The cases as a table in Markdown."""
    vanilla = cases[0]
    lines = [
        "| retain | KV blocks | KV per request | saved | concurrent requests | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        retain = "vanilla" if case.retain is None else case.retain
        kind = "for each stage" if case.kv_groups else "shared"
        saved = 1 - case.bytes_per_request / vanilla.bytes_per_request
        lines.append(
            f"| {retain} | {kind} | {case.bytes_per_request / 2**20:.2f} MiB | {saved:.0%} | {case.fit} "
            f"| {case.fit / vanilla.fit:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="sparsevlm+", help="a method with one budget")
    parser.add_argument("--retain", default="192,128,64", help="budgets")
    parser.add_argument("--layers", type=int, default=32, help="of the decoder")
    parser.add_argument("--kv-mib", type=int, default=256, help="KV space")
    parser.add_argument("--requests", type=int, default=128, help="that arrive; more than fit")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    arguments = parser.parse_args()
    budgets = [int(retain) for retain in arguments.retain.split(",")]
    cases = [Case(None, False), Case(budgets[-1], False), *(Case(retain, True) for retain in budgets)]
    for case in cases:
        measure(case, arguments)
    print(table(cases))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record(arguments, cases), indent=1) + "\n")


def record(arguments: argparse.Namespace, cases: list[Case]) -> dict[str, Any]:
    """The numbers with what made them."""
    given = {name: value for name, value in vars(arguments).items() if name != "out"}
    versions = {name: version(name) for name in ("torch", "transformers")}
    versions["vllm"] = __import__("vllm").__version__
    return {
        "arguments": given,
        "block_size": BLOCK,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": versions,
        "cases": [asdict(case) for case in cases],
    }


if __name__ == "__main__":
    main()
