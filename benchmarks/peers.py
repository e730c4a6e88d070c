"""Times other implementations and ours on identical random weights and prompts, taking turns.

    python benchmarks/peers.py --peer sparsevlm-v2.0 CHECKOUT PYTHON --peer divprune CHECKOUT PYTHON --out FOLDER

Each ``--peer`` names a known one (``benchmarks/peering/contestants.py``), a folder with its code and the interpreter of
an environment that this code runs in; nothing is downloaded. Every contestant is a process of its own, since the
checkouts pin versions of transformers that do not go together with ours. A process holds one model and several
settings of it: dense, and pruned as its own scripts do; ours holds, for each of these, the same counts at the same
layers. All read the same weights from one file (compared by a hash of every matrix of the decoder) and the same prompt.

Every setting is first looked at without a clock: tokens per layer, bytes of the cache, peak memory of tensors, kept
tokens. Then all settings of all contestants take turns in random order; the time of a turn is that of the processor,
from pixels to the first token. Speed-ups are medians over the rounds of dense over pruned within a round, each
contestant by its own dense model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peering.checkpoint import QUESTION, VOCABULARY, write_checkpoint
from peering.contestants import KNOWN, TILE, Failed, Worker, working
from peering.presenting import agreement, summary, table

SHAPE = {"layers": 24, "hidden": 1024, "ffn": 2816, "heads": 16, "text": 64}
# Ours with its own schedule, at budgets that the peers' schedules are named after.
OWN = {f"sparsevlm+, {n}, own schedule": f"sparsevlm+(retain={n})" for n in (192, 64)}


def check_weights(reference: Worker, worker: Worker) -> None:
    """Both have the same decoder.

    Raises:
        Failed: if not, naming a matrix.
    """
    mine, theirs = reference.said["weights"], worker.said["weights"]
    wrong = sorted(name for name, value in mine.items() if theirs.get(name) != value)
    if not mine or wrong:
        what = (
            f"{len(wrong)} of {len(mine)} matrices, such as layers.{wrong[0]}"
            if wrong
            else "no matrix was recognised"
        )
        raise Failed(f"{worker.name} does not have the weights of {reference.name}: {what}")


class Entry:
    """A setting of a contestant, and all that was found of it."""

    def __init__(self, worker: Worker, name: str, options: dict[str, Any], twin: str | None = None) -> None:
        self.worker, self.name, self.options, self.twin = worker, name, options, twin
        self.seen: dict[str, Any] = {}
        self.turns: list[dict[str, float]] = []

    def ask(self, look: bool) -> dict[str, Any]:
        said = self.worker.ask({"look": look, "options": self.options})
        if "failed" in said and not look:
            raise Failed(f"{self.worker.name}, {self.name}: {said['failed']}")
        return said


def entries(
    ours: Worker, peers: dict[str, Worker], tiles: int, own: bool, only: Sequence[str]
) -> list[Entry]:
    """Every setting of every contestant, or dense and those named; our dense model is the first."""
    found = [Entry(ours, "dense", {})]
    if own:
        found += [Entry(ours, name, {"method": method}) for name, method in OWN.items()]
    for peer, worker in peers.items():
        found.append(Entry(worker, "dense", {}))
        for setting in KNOWN[peer].settings(tiles):
            if only and setting.name not in only:
                continue
            twin = f"as {peer}, {setting.name}"
            found.append(Entry(ours, twin, {"method": setting.ours}))
            found.append(Entry(worker, setting.name, setting.options, twin))
    return found


def race(all_of_them: Sequence[Entry], repeats: int) -> Iterator[int]:
    """Look at every setting, then time those that run, and yield after each round; what one raises is written down."""
    for entry in all_of_them:
        entry.seen = entry.ask(look=True)
        print(f"{entry.worker.name}, {entry.name}: {entry.seen.get('failed', 'runs')}", file=sys.stderr)
    running = [entry for entry in all_of_them if "failed" not in entry.seen]
    shuffle = random.Random(0)
    for count in range(repeats):
        for entry in shuffle.sample(running, len(running)):
            entry.turns.append(entry.ask(look=False))
        print(f"round {count + 1} of {repeats}", file=sys.stderr)
        yield count + 1


def parse_shape(text: str) -> dict[str, int]:
    """``layers=24,hidden=1024``: what is not named keeps its default.

    Raises:
        Failed: naming the part that is wrong.
    """
    sizes = dict(SHAPE)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in SHAPE or not value.isdigit() or not int(value):
            raise Failed(f"--shape: {part!r} is not NAME=NUMBER with a name out of {', '.join(SHAPE)}")
        sizes[name] = int(value)
    return sizes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", nargs=3, action="append", default=[], metavar=("NAME", "CHECKOUT", "PYTHON")
    )
    parser.add_argument("--shape", default="", help="such as layers=24,hidden=1024,ffn=2816,heads=16,text=64")
    parser.add_argument("--tiles", type=int, default=1, help="pictures of 576 tokens in the prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--setting", action="append", default=[], help="only dense and this one; may be repeated"
    )
    parser.add_argument(
        "--own", action="store_true", help="also ours with its own schedule, at 192 and 64 tokens"
    )
    parser.add_argument("--checkpoint", type=Path, help="folder of the weights; written if it does not exist")
    parser.add_argument("--out", type=Path, help="folder for results.json and table.md")
    given = parser.parse_args(arguments)
    sizes = parse_shape(given.shape)
    if given.tiles < 1 or given.threads < 1 or given.repeats < 1:
        raise Failed("--tiles, --threads and --repeats are at least 1")
    for name, checkout, _ in given.peer:
        if name not in KNOWN:
            raise Failed(f"--peer {name}: the known ones are {', '.join(KNOWN)}")
        if not Path(checkout).is_dir():
            raise Failed(f"--peer {name}: {checkout} is no folder")
        names = [setting.name for setting in KNOWN[name].settings(given.tiles)]
        if given.setting and not {*given.setting} & {*names}:
            raise Failed(f"--setting: {name} has {', '.join(names)}")
    if len({name for name, _, _ in given.peer}) < len(given.peer):
        raise Failed("--peer: name each of them once")
    with ExitStack() as loaded:
        folder = str(given.checkpoint or loaded.enter_context(tempfile.TemporaryDirectory()))
        prompt = checkpoint_in(Path(folder), sizes, given.tiles, given.seed)
        job = {
            "folder": folder,
            "threads": given.threads,
            "vocabulary": VOCABULARY,
            "question": QUESTION,
            "checkout": "",
        }
        threads = {"OMP_NUM_THREADS": str(given.threads)}
        ours = loaded.enter_context(working("sparsesight", sys.executable, threads, "ours", job))
        peers: dict[str, Worker] = {}
        for name, checkout, python in given.peer:
            known = KNOWN[name]
            own_job = {**job, "checkout": str(Path(checkout).resolve())}
            environment = {**threads, **dict(known.environment), "PYTHONPATH": ""}
            peers[name] = loaded.enter_context(working(name, python, environment, known.adapter, own_job))
            check_weights(ours, peers[name])
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "shape": sizes,
            "prompt": prompt,
            "seed": given.seed,
            "threads": given.threads,
            "contestants": {worker.name: described(worker) for worker in (ours, *peers.values())},
        }
        found = entries(ours, peers, given.tiles, given.own, given.setting)
        for rounds in race(found, given.repeats):
            rows, agreed = summary(found), agreement(found)
            text = table(rows, agreed, prompt)
            if given.out is not None:
                given.out.mkdir(parents=True, exist_ok=True)
                results = {**about, "rounds": rounds, "rows": rows, "agreement": agreed}
                (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
                (given.out / "table.md").write_text(text + "\n")
    print(text)


def checkpoint_in(folder: Path, sizes: dict[str, int], tiles: int, seed: int) -> dict[str, int]:
    """Write the checkpoint, or take the one that is there; how many visual and text tokens its prompt has.

    Raises:
        Failed: what is there was written for another shape, prompt or seed.
    """
    wanted = {**sizes, "tiles": tiles, "seed": seed}
    shape = folder / "shape.json"
    if not shape.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, wanted)
    elif json.loads(shape.read_text()) != wanted:
        raise Failed(f"--checkpoint {folder} holds {shape.read_text()}, not {wanted}: name another folder")
    return {"visual": tiles * TILE, "text": sizes["text"]}


def described(worker: Worker) -> dict[str, Any]:
    """Where its code is from, what it runs in, and what its adapter changes."""
    known = KNOWN.get(worker.name)
    return {
        "repository": known.repository if known else "this one",
        "variables": dict(known.environment) if known else {},
        "environment": worker.said["ready"],
        "changes": worker.said["changes"],
    }


if __name__ == "__main__":
    main()
