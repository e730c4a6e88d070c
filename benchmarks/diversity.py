"""Time of the greedy selections by diversity, of several versions of the package.

    git worktree add ../before bb6a87f
    python benchmarks/diversity.py src ../before/src --turns 3

Each version runs in a process of its own, on one thread; versions take turns, case by case. Tokens are random vectors,
or ("smooth") runs of twelve similar ones, as in a picture. Times are medians of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

SIZES = ((576, 64), (2880, 64), (2880, 320), (3840, 427))  # visual tokens, of which so many are kept
WIDTHS = (1024, 4096)
RULES = ("farthest_point_ranks", "greedy_dpp_map", "greedy_gaussian_map")


def serve() -> None:
    """Answer each case on standard input with its seconds, or null if this version lacks the rule."""
    import inspect

    import torch

    from sparsesight import ops

    torch.set_num_threads(1)
    for line in sys.stdin:
        rule, tokens, keep, width, smooth = json.loads(line)
        if not hasattr(ops, rule):
            print("null", flush=True)
            continue
        generator = torch.Generator().manual_seed(tokens)
        x = torch.randn(1, tokens, width, generator=generator)
        if smooth:
            x = x[:, torch.arange(tokens) // 12] + 0.6 * torch.randn(x.shape, generator=generator)
        valid = torch.ones(1, tokens, dtype=torch.bool)
        # As methods ask: places of what is not kept are not needed. Older versions compute them always.
        named = inspect.signature(getattr(ops, rule)).parameters
        some = {"rest": False} if "rest" in named else {}
        weight = torch.rand(1, tokens, generator=generator)
        count = torch.tensor([keep])
        start = time.process_time()
        if rule == "farthest_point_ranks":
            ops.farthest_point_ranks(x, valid, count, keep, **some)
        elif rule == "greedy_dpp_map":
            ops.greedy_dpp_map(x, weight, valid, count, keep, **some)
        elif "favor" in named:
            ops.greedy_gaussian_map(x, valid, count, keep, (6 * weight).exp(), [keep // 2], **some)
        else:  # before the first half was searched for
            given = ops.ranks(weight, valid)
            ops.greedy_gaussian_map(x, given, count // 2, valid, count, keep, **some)
        print(time.process_time() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("paths", nargs="*", default=["src"], help="folders to import sparsesight from")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in options.paths
    ]
    print("| rule | tokens | kept | width | vectors |", " | ".join(f"{p}, ms" for p in options.paths), "|")
    print("| --- " * (5 + len(workers)) + "|")
    for smooth in (False, True):
        for width in options.widths:
            for tokens, keep in SIZES:
                for rule in RULES:
                    seconds: list[list[float]] = [[] for _ in workers]
                    for _ in range(options.turns):
                        for worker, own in zip(workers, seconds, strict=True):
                            assert worker.stdin is not None and worker.stdout is not None
                            print(
                                json.dumps([rule, tokens, keep, width, smooth]), file=worker.stdin, flush=True
                            )
                            answer = json.loads(worker.stdout.readline())
                            own += [] if answer is None else [answer]
                    times = [f"{1000 * median(own):.0f}" if own else "-" for own in seconds]
                    kind = "smooth" if smooth else "random"
                    print(
                        f"| `{rule}` | {tokens} | {keep} | {width} | {kind} |",
                        " | ".join(times),
                        "|",
                        flush=True,
                    )
    for worker in workers:
        worker.terminate()


if __name__ == "__main__":
    main()
