"""Exact answers and kept tokens where the question comes before its picture, and where it comes after it, as is usual.

    python benchmarks/question_first.py --questions 360 --out benchmarks/results/question-first.json

The bundled model on scenes of the split "val", SparseVLM+. "By template text" is what scores the visual tokens where
the chat template is not known: the words after the picture, which are the template's. "kept as after" is the share of
the tokens that the last stage keeps which it also keeps where the question comes after the picture. Intervals are 95 %,
by bootstrap over scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.probing.answering import ANSWER_TOKENS, encode
from benchmarks.probing.intervals import difference, estimate
from sparsesight import sparsify
from sparsesight.bench.machine import environment
from sparsesight.bundled import load
from sparsesight.scenes.dataset import Example, examples

AFTER = "USER: {image}\n{question} ASSISTANT:"
BEFORE = "USER: {question}\n{image} ASSISTANT:"


Kept = list[set[int]]


def put(
    model: Any,
    processor: Any,
    asked: Sequence[Example],
    features: Sequence[Any],
    prompt: str,
    method: dict[str, Any] | None,
) -> tuple[np.ndarray, Kept]:
    """Which answers are exactly right, bool [n], and the tokens that each question keeps to the end."""
    image = processor.image_token * len(features[0])
    marks, kept = [], []
    for start in range(0, len(asked), 24):
        some = asked[start : start + 24]
        texts = [prompt.format(image=image, question=x.question.text) for x in some]
        inputs = processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        given = BaseModelOutputWithPooling(pooler_output=list(features[start : start + 24]))

        def answers(inputs: Any = inputs, given: Any = given) -> Any:
            return model.generate(
                **inputs,
                mm_encoder_outputs={"image": given},
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
            )

        with torch.inference_mode():
            if method is None:
                output = answers()
            else:
                with sparsify(model, "sparsevlm+", **method) as run:
                    output = answers()
                kept += [set(x.tolist()) for x in run.kept[-1]]
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        marks += [a.strip() == x.question.answer for a, x in zip(said, some, strict=True)]
    return np.array(marks), kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=360)
    parser.add_argument("--retain", default="192,64")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    model, processor = load()
    asked = list(islice(examples("val"), given.questions))
    with torch.inference_mode():
        features = encode(model, processor, [x.image for x in asked])
    scene = np.array([x.scene.seed for x in asked])

    def ask(prompt: str, **method: Any) -> tuple[np.ndarray, Kept]:
        return put(model, processor, asked, features, prompt, method or None)

    found = {"dense, question after": ask(AFTER), "dense, question before": ask(BEFORE)}
    for retain in map(int, given.retain.split(",")):
        found |= {
            f"{retain}, question after": ask(AFTER, retain=retain, processor=processor),
            f"{retain}, question before": ask(BEFORE, retain=retain, processor=processor),
            f"{retain}, question before, by template text": ask(BEFORE, retain=retain),
        }
    rows: dict[str, Any] = {}
    for name, (marks, kept) in found.items():
        dense = found["dense, question " + ("after" if "after" in name else "before")][0]
        rows[name] = {"exact": estimate(marks, scene), "less dense": difference(marks, dense, scene)}
        if kept:
            after = found[name.split(",")[0] + ", question after"][1]
            same = np.array([len(x & y) / len(y) for x, y in zip(kept, after, strict=True)])
            rows[name] |= {"kept": len(kept[0]), "kept as after": estimate(same, scene)}
        print(name, json.dumps(rows[name]), flush=True)
    result = {
        "environment": environment("cpu", torch.float32),
        "questions": given.questions,
        "processor_seconds": round(time.process_time() - start),
        "rows": rows,
    }
    print(result["processor_seconds"], "s")
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
