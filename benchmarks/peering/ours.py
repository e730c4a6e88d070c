"""Adapter: this package on transformers' LLaVA. Options: ``method``, as the command line writes it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.initialization import no_init_weights

from peering import forks
from sparsesight import TextTower, questions, sparsify
from sparsesight.methods import parse

PATHS = ()
CHANGES = ()
PICTURE = -1  # counted from the end of the vocabulary


class Peer:
    """One model, under one method after the other."""

    def __init__(self, job: dict[str, Any]) -> None:
        shape = forks.settings(job)
        clip = CLIPModel.from_pretrained(shape["mm_vision_tower"], attn_implementation="sdpa").eval()
        text = {key: value for key, value in shape.items() if not key.startswith(("mm_", "use_mm"))}
        self.picture = shape["vocab_size"] + PICTURE
        names: dict[str, Any] = {
            "vision_config": clip.config.vision_config,
            "text_config": LlamaConfig(**text),
            "image_token_index": self.picture,
        }
        with no_init_weights():  # those of the file replace them
            config = LlavaConfig(**names, attn_implementation="sdpa")
            self.decoder = LlavaForConditionalGeneration(config).eval()
        found = {renamed(name): value for name, value in forks.weights(job).items()}
        for name, value in clip.vision_model.state_dict().items():
            found[f"model.vision_tower.{name}"] = value
        self.decoder.load_state_dict(found, assign=True)
        self.decoder.generation_config.eos_token_id = None
        tokenizer = CLIPTokenizer.from_pretrained(shape["mm_vision_tower"])
        self.text_tower = TextTower.from_clip(clip, tokenizer)
        self.question = job["question"]
        self.run: Any = None

    def choose(self, options: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.restore()
            self.run = None
        if options:
            method = parse(options["method"])
            tower = self.text_tower if method.requires_text_tower else None
            self.run = sparsify(self.decoder, method, text_tower=tower)

    def prefill(self, prompt: dict[str, Any]) -> int:
        return int(self.generated(prompt).sequences[0, -1])

    def generated(self, prompt: dict[str, Any]) -> Any:
        picture = torch.full((prompt["visual"],), self.picture)
        ids = torch.cat((prompt["before"], picture, prompt["after"]))[None]
        with questions(self.decoder, self.question):
            return self.decoder.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=prompt["pixels"],
                max_new_tokens=1,
                do_sample=False,
                return_dict_in_generate=True,
            )

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        out = self.generated(prompt)
        stages = [] if self.run is None else self.run.choices()
        counts = [int(stage.kept.sum()) for stage in stages]
        if self.run is not None and isinstance(self.run.method.retain, tuple):
            counts = list(self.run.method.retain)  # merged tokens of earlier stages count as well
        return {
            "token": int(out.sequences[0, -1]),
            "cache": [(layer.keys, layer.values) for layer in out.past_key_values.layers],
            "kept": [np.flatnonzero(stage.kept).tolist() for stage in stages],
            "margins": [margin(x.score, n) for x, n in zip(stages, counts, strict=True)],
        }


def margin(score: np.ndarray, count: int) -> float | None:
    """How far the worst of the ``count`` best is above the next, relative to it; None where scores are places."""
    entered = np.sort(score[~np.isnan(score)])[::-1]
    if not 0 < count < len(entered) or (entered == np.round(entered)).all():
        return None
    return float((entered[count - 1] - entered[count]) / abs(entered[count - 1]))


def renamed(name: str) -> str:
    """A name of LLaVA's own code in transformers' class."""
    name = name.replace("model.mm_projector.0.", "model.multi_modal_projector.linear_1.")
    name = name.replace("model.mm_projector.2.", "model.multi_modal_projector.linear_2.")
    return re.sub(r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1", name)
