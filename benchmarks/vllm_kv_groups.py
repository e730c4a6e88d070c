"""What block tables for each stage cost a decoding step: vLLM with ``kv_groups`` and without, alternating step by step.

    python benchmarks/vllm_kv_groups.py

in the environment of `make test-vllm`. Both engines hold the same random LLaVA in this process, with prefix caching and
chunked prefill on, and answer the same requests with a picture each; a ratio is that of two decoding steps which follow
each other. Prints one line.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from serving import engines
from serving.traffic import in_step

from sparsesight.methods import SparseVLMPlus
from sparsesight.random_models import Shape

METHOD = SparseVLMPlus(64)
PREFILL = 4  # the first steps, which are not counted


def main() -> None:
    arguments = parse()
    engines.prepare(1, 1)
    shape = Shape.parse(f"{arguments.shape},visual=576,text=24")
    given = {
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "block_size": 32,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 8192,
    }
    with tempfile.TemporaryDirectory() as folder:
        engines.save_random(shape, Path(folder), torch.float32)
        opened = [
            engines.open_engine(
                Path(folder),
                METHOD,
                torch.float32,
                additional_config={"sparsesight": {**METHOD.to_dict(), "kv_groups": groups}},
                **given,
            )
            for groups in (False, True)
        ]
    params = engines.sampling(arguments.tokens)
    ratios, shared = [], []
    for number in range(-1, arguments.rounds):  # the first warms up
        for llm in opened:
            llm.reset_prefix_cache()
        clocks = in_step(opened, engines.pictured(shape, 8), params)
        if number >= 0:
            without, groups = (np.array(clock.cpu)[PREFILL:] for clock in clocks)
            ratios += (groups / without).tolist()
            shared += without.tolist()
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    print(
        f"{len(ratios)} decoding steps of 8 requests: {1e3 * np.median(shared):.2f} ms with shared block tables, "
        f"{middle:.3f} of that with kv_groups (quartiles {low:.3f} to {high:.3f}), by processor time"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", default="layers=8,hidden=512,ffn=1408", help="of the random model")
    add("--rounds", type=int, default=4, help="how often the requests are sent (default: 4)")
    add("--tokens", type=int, default=48, help="output tokens of a request (default: 48)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
