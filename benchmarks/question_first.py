"""Which tokens are kept where the question comes before its picture, beside those kept where it comes after it.

    python -m benchmarks.question_first --questions 60

The bundled model on scenes of the split "val", SparseVLM+. Printed is the share of the tokens of the last stage that it
also keeps with the question behind the picture: by the question before the picture; by the template's words, which
alone follow the picture and score it where the chat template is not known; and by chance. Intervals are 95 %, by
bootstrap over scenes. No accuracy: the model was trained with the picture first, and fails in the other order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.probing.answering import encode
from benchmarks.probing.intervals import estimate
from sparsesight import sparsify
from sparsesight.bundled import load
from sparsesight.scenes.dataset import Example, examples

AFTER = "USER: {image}\n{question} ASSISTANT:"
BEFORE = "USER: {question}\n{image} ASSISTANT:"
BATCH = 24


def kept(
    model: Any,
    processor: Any,
    asked: Sequence[Example],
    features: Sequence[Any],
    prompt: str,
    settings: dict[str, Any],
) -> list[set[int]]:
    """The tokens of each question's picture that are kept to the end."""
    found = []
    image = processor.image_token * len(features[0])
    for start in range(0, len(asked), BATCH):
        batch = slice(start, start + BATCH)
        texts = [prompt.format(image=image, question=x.question.text) for x in asked[batch]]
        inputs = processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        given = {"image": BaseModelOutputWithPooling(pooler_output=list(features[batch]))}
        with torch.inference_mode(), sparsify(model, "sparsevlm+", **settings) as run:
            model.generate(**inputs, mm_encoder_outputs=given, max_new_tokens=1, do_sample=False)
        found += [set(x.tolist()) for x in run.kept[-1]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--retain", default="192,64")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load()
    asked = list(islice(examples("val"), given.questions))
    with torch.inference_mode():
        features = encode(model, processor, [x.image for x in asked])
    scene = np.array([x.scene.seed for x in asked])
    put = (model, processor, asked, features)
    for retain in map(int, given.retain.split(",")):
        after = kept(*put, AFTER, {"retain": retain, "processor": processor})
        print(f"{retain}: by chance {len(after[0]) / len(features[0]):.3f}", flush=True)
        for name, known in (("the question", {"processor": processor}), ("the template", {})):
            before = kept(*put, BEFORE, {"retain": retain, **known})
            same = np.array([len(x & y) / len(y) for x, y in zip(before, after, strict=True)])
            print(f"{retain}: by {name}", estimate(same, scene), flush=True)


if __name__ == "__main__":
    main()
