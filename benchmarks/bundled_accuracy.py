"""What pruning costs the bundled model: exact answers on scenes that nobody chose.

    python benchmarks/bundled_accuracy.py --scenes 60 --questions 4

Prints a Markdown table: share of exactly right answers, greedy, with a 95 % bootstrap interval over scenes.
"""

from __future__ import annotations

import argparse
import random
from contextlib import nullcontext
from typing import Any

import torch

from sparsesight import sparsify
from sparsesight.bench import environment
from sparsesight.bundled import load, scenes

FIRST_SEED = 2000  # not the scenes of the model card's dense figures
SETTINGS: list[dict[str, Any]] = [{"retain": 64}, {"retain": 192}, {"retain": 192, "layers": (2, 4)}]
METHODS = ("sparsevlm", "sparsevlm+", "random")


def right_answers(model: Any, processor: Any, data: list[tuple[Any, list[Any]]]) -> list[list[bool]]:
    """Per scene, whether each question was answered exactly."""
    result = []
    for image, questions in data:
        texts = [f"USER: <image>\n{q.text} ASSISTANT:" for q in questions]
        inputs = processor(text=texts, images=[image] * len(texts), return_tensors="pt", padding=True)
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        result.append([a.strip() == q.answer for a, q in zip(said, questions, strict=True)])
    return result


def interval(right: list[list[bool]], draws: int = 2000) -> tuple[float, float, float]:
    """Mean and its 95 % interval, resampling scenes."""
    shares = [sum(scene) / len(scene) for scene in right]
    draw = random.Random(0)
    means = sorted(sum(draw.choices(shares, k=len(shares))) / len(shares) for _ in range(draws))
    return sum(shares) / len(shares), means[int(0.025 * draws)], means[int(0.975 * draws)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--questions", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load()
    data = []
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.scenes):
        scene = scenes.render(seed)
        data.append((scene.image, scenes.questions(scene, arguments.questions)))
    facts = {"n": arguments.scenes * arguments.questions, **environment("cpu", torch.float32)}
    print(", ".join(f"{k} {v}" for k, v in facts.items()), flush=True)
    print("\n| method | retain | after layers | right | 95 % |\n| --- | --- | --- | --- | --- |", flush=True)
    runs: list[tuple[str, dict[str, Any]]] = [("dense", {})]
    runs += [(name, setting) for setting in SETTINGS for name in METHODS]
    for name, setting in runs:
        with nullcontext() if name == "dense" else sparsify(model, name, **setting) as run:
            mean, low, high = interval(right_answers(model, processor, data))
        layers = "" if name == "dense" else ", ".join(map(str, run.layers))
        print(
            f"| {name} | {setting.get('retain', '')} | {layers} | {mean:.3f} | {low:.3f} to {high:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
