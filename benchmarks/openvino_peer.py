"""Times the CDPruner of OpenVINO GenAI and ours on the same random Qwen2-VL and picture, taking turns.

    python benchmarks/openvino_peer.py MODEL EXPORT PYTHON --out FOLDER

MODEL is the folder that ``peering/random_qwen2_vl.py`` writes, EXPORT what ``optimum-cli export openvino`` makes of it,
PYTHON the interpreter of an environment with openvino-genai. Each is a process of its own, on one thread, in float32.
The time of a turn is that of the processor, from the decoded picture to the first token; ours prunes before the first
layer and keeps as many tokens as theirs. Speed-ups are medians over the rounds of dense over pruned, each by its own
dense model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

QUESTION = "what is in the picture ?"
UNIT = 28  # pixels along the side of what becomes a visual token
RATIOS = (0, 50, 75, 90)  # percent of the visual tokens that go

Turn = Callable[[int], dict[str, Any]]


def picture(side: int) -> np.ndarray:
    """Squares of random colours [side, side, 3], one for each visual token."""
    colours = np.random.default_rng(0).integers(0, 255, (side // UNIT, side // UNIT, 3), dtype=np.uint8)
    return colours.repeat(UNIT, 0).repeat(UNIT, 1)


def kept(side: int, ratio: int) -> int:
    """How many visual tokens stay."""
    return round((side // UNIT) ** 2 * (100 - ratio) / 100)


def theirs(export: str, side: int) -> Turn:
    """OpenVINO GenAI's pipeline."""
    import openvino
    import openvino_genai as genai

    how = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    pipeline = genai.VLMPipeline(export, "CPU", **how)
    image = openvino.Tensor(picture(side)[None])

    def turn(ratio: int) -> dict[str, Any]:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = 1, False, True
        config.pruning_ratio = ratio
        started = time.process_time()
        result = pipeline.generate(QUESTION, images=[image], generation_config=config)
        seconds = time.process_time() - started
        return {
            "seconds": seconds,
            "tokens": result.perf_metrics.get_num_input_tokens(),
            "text": result.texts[0],
        }

    return turn


def ours(model: str, side: int) -> Turn:
    """The same weights in transformers, with :func:`sparsify`."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    from sparsesight import sparsify

    torch.set_num_threads(1)
    whole = Qwen2VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.fromarray(picture(side))

    def answer() -> tuple[Any, int]:
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        ids = whole.generate(**inputs, max_new_tokens=1, do_sample=False)
        return processor.decode(ids[0, -1:]), inputs["input_ids"].shape[1]

    def turn(ratio: int) -> dict[str, Any]:
        count = kept(side, ratio)
        started = time.process_time()
        if ratio:
            with sparsify(whole, "cdpruner", retain=count):
                said, tokens = answer()
        else:
            said, tokens = answer()
        seconds = time.process_time() - started
        return {"seconds": seconds, "tokens": tokens - kept(side, 0) + count, "text": said}

    return turn


def serve(turn: Turn) -> None:
    """Answer each ratio on standard input with a line."""
    for line in sys.stdin:
        print("RESULT " + json.dumps(turn(int(line))), flush=True)


class Contestant:
    """A process that takes turns."""

    def __init__(self, name: str, python: str, *args: str) -> None:
        self.name = name
        command = [python, __file__, *args, "--serve", name]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def turn(self, ratio: int) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{ratio}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # libraries print there too
            if line.startswith("RESULT "):
                said: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return said
        raise SystemExit(f"{self.name} ended: {self.process.wait()}")


def rows(turns: dict[str, dict[int, list[dict[str, Any]]]]) -> list[str]:
    """A table of all turns."""
    lines = [
        "| contestant | left out | tokens of the prompt | prefill, processor time | speed-up | first token |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for ratio in RATIOS:
        for name, of in turns.items():
            seconds = [x["seconds"] for x in of[ratio]]
            gains = [a["seconds"] / b["seconds"] for a, b in zip(of[0], of[ratio], strict=True)]
            spread = f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            gain = f"{median(gains):.2f}x" if ratio else ""
            first = of[ratio][0]
            left_out = f"{ratio} %" if ratio else "none"
            lines.append(
                f"| {name} | {left_out} | {first['tokens']} | {spread} | {gain} | `{first['text']!r}` |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("export")
    parser.add_argument("python", help="of an environment with openvino-genai")
    parser.add_argument("--side", type=int, default=672, help="of the picture, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", choices=("ours", "openvino-genai"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(ours(given.model, given.side) if given.serve == "ours" else theirs(given.export, given.side))
        return
    args = (given.model, given.export, given.python, "--side", str(given.side))
    contestants = [
        Contestant("ours", sys.executable, *args),
        Contestant("openvino-genai", given.python, *args),
    ]
    turns: dict[str, dict[int, list[dict[str, Any]]]] = {
        x.name: {ratio: [] for ratio in RATIOS} for x in contestants
    }
    for number in range(given.repeats + 1):
        for ratio in RATIOS:
            for contestant in contestants:
                said = contestant.turn(ratio)
                if number:  # the first round warms up
                    turns[contestant.name][ratio].append(said)
    table = "\n".join(rows(turns))
    print(table)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "table.md").write_text(table + "\n")
        (given.out / "results.json").write_text(json.dumps(turns, indent=1) + "\n")


if __name__ == "__main__":
    main()
