"""Adapter: transformers' own LLaVA, dense or under SparseSight. Options: ``method`` (as the command line writes it)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForImageTextToText


def load(job: dict[str, Any]) -> Any:
    """The model and ``answer(prompt, count)``, which gives so many greedy tokens."""
    dtype = getattr(torch, job["dtype"])
    model: Any = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=dtype)
    model = model.to(job["device"]).eval()
    if job["options"].get("method"):
        from sparsesight import sparsify
        from sparsesight.methods import parse

        sparsify(model, parse(job["options"]["method"]))

    def answer(prompt: dict[str, Any], count: int) -> list[int]:
        picture = torch.full((prompt["visual"],), model.config.image_token_id, device=job["device"])
        ids = torch.cat((prompt["before"], picture, prompt["after"]))[None]
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=prompt["pixels"].to(dtype),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
        )
        return list(out[0, ids.shape[1] :].tolist())

    return model, answer
