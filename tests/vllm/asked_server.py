"""The server that `test_server.py` and `test_server_refusals.py` ask, and what transformers answers to the same."""

from __future__ import annotations

import urllib.request
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sparsesight import Method, bundled, sparsify
from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS
from tests.vllm.engines import in_blocks, loaded

SERVED = METHODS[DEFAULT]  # no flag names a method
# Room for two pictures, which is more than the model was trained for.
LENGTH = 1300
FLAGS = (
    "--retain",
    "64",
    *(
        "--enforce-eager",
        "--max-num-seqs",
        "8",
        "--max-num-batched-tokens",
        "4096",
        "--max-model-len",
        str(LENGTH),
    ),
    *("--limit-mm-per-prompt", '{"image": 2}'),
    *("--hf-overrides", '{"text_config": {"max_position_embeddings": 2048}}'),
)
QUESTIONS = bundled.picture_questions()
PICTURE = bundled.default_picture()
# Not the first question: with it two patches differ by less than the two towers round.
QUESTION = QUESTIONS[PICTURE.name][1]["question"]


def answer(completion: Any) -> tuple[list[str], list[float]]:
    """Tokens of an answer and their log-probabilities."""
    content = completion.choices[0].logprobs.content
    return [x.token for x in content], [x.logprob for x in content]


def expected(question: str, pictures: list[Path], method: Method | None) -> tuple[list[str], list[float]]:
    """The same by transformers."""
    return by_transformers(question, tuple(pictures), method)


@cache
def by_transformers(
    question: str, pictures: tuple[Path, ...], method: Method | None
) -> tuple[list[str], list[float]]:
    model, processor = loaded()
    prompt = "USER: " + "<image>\n" * len(pictures) + f"{question} ASSISTANT:"
    images = [Image.open(path).convert("RGB") for path in pictures] or None
    inputs = processor(text=prompt, images=images, return_tensors="pt")
    with nullcontext() if method is None else sparsify(model, in_blocks(method)), torch.no_grad():
        out = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=8,
            min_new_tokens=8,
            return_dict_in_generate=True,
            output_logits=True,
        )
    ids = out.sequences[0, inputs["input_ids"].shape[1] :]
    logits = torch.cat(out.logits).float().log_softmax(-1)
    return [processor.decode([i]) for i in ids], logits[torch.arange(len(ids)), ids].tolist()


def same(a: tuple[list[str], list[float]], b: tuple[list[str], list[float]], tolerance: float = 1e-3) -> bool:
    """Whether two answers have the same words, and the same log-probabilities."""
    return [x.strip() for x in a[0]] == [x.strip() for x in b[0]] and all(
        abs(x - y) <= tolerance for x, y in zip(a[1], b[1], strict=True)
    )


def metric(address: str, name: str) -> float:
    """A number that the server reports."""
    text = urllib.request.urlopen(f"{address}/metrics", timeout=30).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))
