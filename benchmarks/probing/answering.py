"""Questions in, greedy answers out, with the picture encoded once however many questions and cells there are.

Pictures are handed over as transformers' own `mm_encoder_outputs`: the decoder gets what it would have got from
`pixel_values`, and the library sees an ordinary prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparsesight import sparsify
from sparsesight.methods import Method
from sparsesight.scenes.dataset import SPLITS, Example, examples

from .scorers import MakeMethod
from .store import Store

ANSWER_TOKENS = 3  # two words and the end
PICTURES_AT_ONCE = 8


@dataclass(frozen=True)
class Batch:
    """Prompts of one length, so that none is padded."""

    rows: list[int]  # which examples
    input_ids: Tensor  # int64 [b, n]
    features: list[Tensor] | None  # [v, c] each, as the decoder takes them; None without a picture


class Sheet:
    """Examples as they are put to the model: each with a picture, its own or another, or with none."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        asked: Sequence[Example],
        pictures: Sequence[Image.Image] | None,
        size: int,
    ) -> None:
        self.model, self.processor, self.examples = model, processor, list(asked)
        self.pictures, self.size = pictures, size

    @cached_property
    def batches(self) -> list[Batch]:
        """At most `size` prompts each; made when first needed."""
        features = None if self.pictures is None else encode(self.model, self.processor, self.pictures)
        visual = len(features[0]) if features else 0
        texts = [prompt(self.processor, example.question.text, visual) for example in self.examples]
        ids = self.processor.tokenizer(texts)["input_ids"]
        by_length: dict[int, list[int]] = {}
        for row, prompt_ids in enumerate(ids):
            by_length.setdefault(len(prompt_ids), []).append(row)
        chunks = [
            rows[start : start + self.size]
            for rows in by_length.values()
            for start in range(0, len(rows), self.size)
        ]
        return [
            Batch(
                rows, torch.tensor([ids[row] for row in rows]), features and [features[row] for row in rows]
            )
            for rows in chunks
        ]

    def answers(self, make_method: MakeMethod | None = None, title: str = "") -> list[str]:
        """The greedy answer to each example; dense without a method. With a title, a progress bar shows it."""
        said = [""] * len(self.examples)
        for batch in tqdm(self.batches, desc=title, unit="batch", leave=False, disable=not title):
            method = None if make_method is None else make_method(batch.rows)
            for row, one in zip(batch.rows, answer(self.model, self.processor, batch, method), strict=True):
                said[row] = one
        return said


class Examiner:
    """Puts sheets to one model, and knows the marks that were given before."""

    def __init__(self, model: Any, processor: Any, store: Store, batch_size: int) -> None:
        self.model, self.processor, self.store, self.batch_size = model, processor, store, batch_size

    @property
    def depths(self) -> range:
        """How many decoder layers can see the whole picture before it is pruned."""
        return range(1, len(self.model.get_decoder().layers))

    def sheet(self, asked: Sequence[Example], pictures: Sequence[Image.Image] | None) -> Sheet:
        """The examples with a picture for each, or with none at all."""
        return Sheet(self.model, self.processor, asked, pictures, self.batch_size)

    def own_pictures(self, asked: Sequence[Example]) -> Sheet:
        """The examples with the pictures they are about."""
        return self.sheet(asked, [example.image for example in asked])

    def marks(self, cell: str, sheet: Sheet, make_method: MakeMethod | None = None) -> np.ndarray:
        """Which answers are exactly right: bool [examples]; dense without a method."""
        known = self.store.marks(cell, sheet.examples)
        if known is not None:
            return known
        said = sheet.answers(make_method, cell)
        marks = np.array([one == e.question.answer for one, e in zip(said, sheet.examples, strict=True)])
        self.store.keep_marks(cell, sheet.examples, marks)
        return marks


def some_examples(split: str, scenes: int | None) -> list[Example]:
    """The examples of the first `scenes` scenes of a split, or of as many as it has."""
    have = SPLITS[split].scenes
    return list(examples(split, have if scenes is None else min(scenes, have)))


def prompt(processor: Any, question: str, visual: int) -> str:
    """A question as the model's own chat template puts it, after a picture of `visual` tokens if there are any."""
    picture = [{"type": "image"}] if visual else []
    content = [*picture, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return text.replace(processor.image_token, processor.image_token * visual)


@torch.inference_mode()
def encode(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> list[Tensor]:
    """What the decoder gets of each picture: [v, c]; the same picture is encoded once."""
    different = list({id(picture): picture for picture in pictures}.values())
    features: dict[int, Tensor] = {}
    for start in range(0, len(different), PICTURES_AT_ONCE):
        some = different[start : start + PICTURES_AT_ONCE]
        pixels = processor.image_processor(some, return_tensors="pt")["pixel_values"]
        encoded = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        features.update(zip(map(id, some), encoded, strict=True))
    return [features[id(picture)] for picture in pictures]


@torch.inference_mode()
def answer(model: Any, processor: Any, batch: Batch, method: Method | None = None) -> list[str]:
    """The greedy answers, pruned by a method or dense.

    Raises:
        RuntimeError: if a sample kept another number of visual tokens than the counts that a method names.
    """
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones_like(batch.input_ids),
    }
    if batch.features is not None:
        # one tensor for each picture, as `get_image_features` returns them
        features: Any = list(batch.features)
        inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
    if method is None:
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    else:
        with sparsify(model, method) as run:
            output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        kept = [[len(sample) for sample in stage] for stage in run.kept]
        if isinstance(method.retain, tuple) and kept != [[n] * len(batch.rows) for n in method.retain]:
            raise RuntimeError(f"{method!r} kept {kept} visual tokens")
    new = output[:, batch.input_ids.shape[1] :]
    return [said.strip() for said in processor.batch_decode(new, skip_special_tokens=True)]
