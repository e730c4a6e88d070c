"""The scripts in examples/, as a user runs them, on the bundled model."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparsesight import bundled, sparsify
from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS

from .engines import in_blocks

pytestmark = pytest.mark.vllm

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, name: str, *arguments: str) -> str:
    """What a script says."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **os.environ}
    log = folder / "log"  # a file: processes that outlive the script would keep a pipe open
    with log.open("w") as output:
        status = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            timeout=900,
        ).returncode
    assert status == 0, log.read_text()[-5000:]
    return log.read_text()


def by_transformers(picture: str, question: str, retain: int) -> str:
    model, processor = bundled.load()
    image = Image.open(picture).convert("RGB")
    inputs = processor(text=f"USER: <image>\n{question} ASSISTANT:", images=image, return_tensors="pt")
    with sparsify(model, in_blocks(METHODS[DEFAULT](retain))), torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    return str(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[data]'")
def test_ray_answers_a_file_of_questions_each_at_its_budget(tmp_path: Path) -> None:
    asked = bundled.picture_questions()
    every = [(str(p), entry["question"]) for p in bundled.pictures() for entry in asked[p.name]]
    budgets = [64, 10]
    rows = [
        {"picture": picture, "question": question, "retain": budgets[i % 2]}
        for i, (picture, question) in enumerate(every[:12])
    ]
    del rows[0]["retain"]  # then it is --retain
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        tmp_path,
        "ray_batch.py",
        *("--questions", "questions.jsonl", "--retain", "64", "--cpus", "3", "--batch", "6"),
    )
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    found = {(x["picture"], x["question"], x["retain"]): x["answer"] for x in answers}
    wanted = {
        key: by_transformers(*key)
        for key in (
            (str(row["picture"]), str(row["question"]), int(str(row.get("retain", 64)))) for row in rows
        )
    }
    assert found == wanted
    # Budgets reach the engine: at one budget for all, answers would be others.
    assert any(answer != by_transformers(p, q, 64) for (p, q, r), answer in wanted.items() if r == 10)


@pytest.mark.slow
def test_replicas_share_the_questions_and_each_prunes(tmp_path: Path) -> None:
    every = [(str(p), x) for p in bundled.pictures() for x in bundled.picture_questions()[p.name]]
    # So few tokens that some answers of either replica are others than without pruning: as many right ones as
    # transformers has, pruned alike, no replica has that does not prune.
    right = [by_transformers(p, x["question"], 10) == x["answer"] for p, x in every]
    wanted = sum(right)
    assert not all(right[::2]) and not all(right[1::2])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = run(
        tmp_path,
        "data_parallel.py",
        *("--in-turn", "--retain", "10", "--port", str(port), "--enforce-eager", "--max-num-seqs", "8"),
        *("--max-num-batched-tokens", "4096", "--max-model-len", "1024"),
    )
    asked = re.search(r"^(\d+) questions, (\d+) answers as expected$", said, re.MULTILINE)
    assert asked, said[-5000:]
    assert tuple(map(int, asked.groups())) == (len(every), wanted)
    shares = {int(a): int(b) for a, b in re.findall(r"^replica (\d+) answered (\d+)$", said, re.MULTILINE)}
    assert shares == {0: (len(every) + 1) // 2, 1: len(every) // 2}
