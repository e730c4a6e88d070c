"""Times other implementations and ours on identical weights and prompts, taking turns.

    python benchmarks/peers.py --model llava-hf/llava-1.5-7b-hf --dtype float16 --device cuda --retain 192 \\
        --checkout ~/SparseVLMs --python ~/SparseVLMs/.venv/bin/python --checkout-model liuhaotian/llava-v1.5-7b \\
        --out runs/peers.json

Every contestant is a process in an environment of its own: the checkouts of others pin versions of transformers that
do not go together with ours, or with each other. All are loaded first and asked in turns, in random order, so that a
machine that drifts does so for all; with ``--apart`` one is loaded after the other, for a memory that does not hold
them together. Whether the weights are the same is checked by a hash of every matrix of the decoder; prompts are the
same token ids and the same pixels. Timed are whole calls of ``generate``.

With ``--checkout`` alone the contestants are the dense model and SparseVLM's method in both. Others are listed in a
file, ``--contestants FILE``: a JSON list of objects with

    name         what the table calls it; the first one is what the others are compared with
    adapter      ours, llava, or the path of a file that defines load(job), as those in benchmarks/peering/ do
    python       interpreter of its environment; this one if left out
    checkout     folder that is put before Python's path
    model        its checkpoint; --model if left out
    options      for the adapter
    environment  variables of its process
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from peering.contestants import ADAPTERS, Failed, Worker, read_contestants, usual, working

QUESTION = "What is in the picture, and where? Answer in one sentence."


def make_prompt(model: str, path: Path, question: str, picture: Path | None) -> dict[str, int]:
    """Write the ids before and after the picture, and its pixels; returns how many tokens there are.

    Raises:
        Failed: if the model's processor puts no single picture there.
    """
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoProcessor

    from sparsesight.bundled import default_picture

    processor: Any = AutoProcessor.from_pretrained(model)
    token = AutoConfig.from_pretrained(model).image_token_id
    image = Image.open(picture or default_picture()).convert("RGB")
    inputs = processor(text=f"USER: <image>\n{question} ASSISTANT:", images=image, return_tensors="pt")
    ids = inputs["input_ids"][0]
    places = (ids == token).nonzero()[:, 0]
    if not len(places) or places[-1] - places[0] + 1 != len(places) or inputs["pixel_values"].ndim != 4:
        raise Failed(f"--model {model}: its prompt has no single picture; give a LLaVA-1.5")
    prompt = {
        "before": ids[: places[0]].clone(),
        "after": ids[places[-1] + 1 :].clone(),
        "pixels": inputs["pixel_values"],
        "visual": len(places),
    }
    torch.save(prompt, path)
    return {"visual": len(places), "text": len(ids) - len(places)}


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
        raise Failed(
            f"{worker.name} does not have the weights of {reference.name}: {what}; give the same checkpoint"
        )


def race(
    contestants: Sequence[dict[str, Any]],
    jobs: Sequence[dict[str, Any]],
    repeats: int,
    steps: int,
    apart: bool,
) -> list[dict[str, Any]]:
    """Every contestant's turns; the first turn of each warms it up and is not counted.

    Raises:
        Failed: if one cannot be loaded, fails in a turn, or has other weights.
    """
    results: list[dict[str, Any]] = [{"name": x["name"], "turns": []} for x in contestants]

    def take(i: int, worker: Worker, count: bool) -> None:
        said = worker.ask(str(steps))
        if count:
            results[i]["turns"].append(said)

    shuffle = random.Random(0)
    first: Worker | None = None
    with ExitStack() as all_loaded:
        groups = [[i] for i in range(len(contestants))] if apart else [list(range(len(contestants)))]
        for group in groups:
            with ExitStack() as loaded:
                stack = loaded if apart else all_loaded
                workers = {i: stack.enter_context(working(contestants[i], jobs[i])) for i in group}
                for i, worker in workers.items():
                    first = worker if first is None else first
                    check_weights(first, worker)
                    results[i]["environment"] = worker.said["ready"]
                for count in range(repeats + 1):
                    for i in shuffle.sample(group, len(group)):
                        take(i, workers[i], bool(count))
    return results


def summary(results: Sequence[dict[str, Any]], apart: bool) -> list[dict[str, Any]]:
    """Medians with spread, and how often the first one's time each needs; within turns where they took turns."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"name": result["name"], "tokens": result["turns"][-1]["tokens"]}
        for key in ("first_token_ms", "first_token_cpu_ms", "token_ms", "token_cpu_ms"):
            mine, reference = (
                [turn[key] for turn in x["turns"] if key in turn] for x in (result, results[0])
            )
            if not mine:
                continue
            row[key] = {"min": min(mine), "median": median(mine), "max": max(mine)}
            if apart:
                row[key]["speedup"] = median(reference) / median(mine)
            else:
                row[key]["speedup"] = median(a / b for a, b in zip(reference, mine, strict=True))
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| contestant | first token ms | speed-up (processor) | per token ms | speed-up |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        first, cpu, token = row["first_token_ms"], row["first_token_cpu_ms"], row.get("token_ms")
        cells = [
            row["name"],
            f"{first['median']:.1f} ({first['min']:.1f} to {first['max']:.1f})",
            f"{first['speedup']:.2f}x ({cpu['speedup']:.2f}x)",
            "-" if token is None else f"{token['median']:.2f}",
            "-" if token is None else f"{token['speedup']:.2f}x",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="checkpoint for transformers; its processor makes the prompt"
    )
    parser.add_argument("--contestants", type=Path, help="JSON list")
    parser.add_argument("--checkout", type=Path, help="of SparseVLM's code, in place of a list")
    parser.add_argument("--python", help="interpreter of the checkout's environment")
    parser.add_argument("--checkout-model", help="the same weights in the checkout's format")
    parser.add_argument("--retain", type=int, default=192)
    parser.add_argument("--use-version", default="2_0", choices=("1_0", "1_5", "2_0"))
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--picture", type=Path, help="default: one that ships with SparseSight")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16, help="further tokens")
    parser.add_argument("--apart", action="store_true", help="load one contestant after the other")
    parser.add_argument("--out", type=Path, help="JSON with every turn")
    given = parser.parse_args(arguments)
    if (given.contestants is None) == (given.checkout is None):
        raise Failed("give --contestants or --checkout, one of them")
    if given.repeats < 1 or given.steps < 0:
        raise Failed("--repeats is at least 1, --steps at least 0")
    if given.checkout is not None:
        if not given.checkout.is_dir():
            raise Failed(f"--checkout {given.checkout} is no folder")
        if given.checkout_model is None:
            raise Failed("--checkout needs --checkout-model, the same weights in its own format")
        contestants = usual(
            given.checkout, given.python, given.checkout_model, given.retain, given.use_version
        )
    else:
        contestants = read_contestants(given.contestants)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.pt"
        sizes = make_prompt(given.model, path, given.question, given.picture)
        jobs = [
            {
                "adapter": str(ADAPTERS / f"{x['adapter']}.py")
                if (ADAPTERS / f"{x['adapter']}.py").exists()
                else str(Path(x["adapter"]).resolve()),
                "checkout": x.get("checkout"),
                "model": x.get("model") or given.model,
                "options": x.get("options") or {},
                "device": given.device,
                "dtype": given.dtype,
                "threads": given.threads,
                "prompt": str(path),
            }
            for x in contestants
        ]
        for x, job in zip(contestants, jobs, strict=True):
            if not Path(job["adapter"]).exists():
                raise Failed(f"{x['name']}: there is no adapter {x['adapter']!r}")
        results = race(contestants, jobs, given.repeats, given.steps, given.apart)
    rows = summary(results, given.apart)
    print(table(rows))
    if given.out is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "settings": settings,
            "prompt": sizes,
            "contestants": contestants,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**about, "rows": rows, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
