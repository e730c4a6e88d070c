"""Adapter: a checkout of LLaVA's code base or a fork of it, such as SparseVLM's, VisionZip's or CDPruner's.

The checkout's ``llava`` package is imported in an environment that its own installation made. Forks that choose their
method by environment variables get them from the contestant's ``environment``; options: ``dense`` asks SparseVLM's
fork for the plain model, ``load`` and ``generate`` hold further arguments of the two calls.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

PICTURE = -200  # the id that stands for a picture there


def load(job: dict[str, Any]) -> Any:
    """The model and ``answer(prompt, count)``, which gives so many greedy tokens."""
    from llava.model.builder import load_pretrained_model  # of the checkout

    options = job["options"]
    how = dict(options.get("load", {}))
    if "dynamic_sparse" in inspect.signature(load_pretrained_model).parameters:
        how["dynamic_sparse"] = not options.get("dense", False)
    # The name decides which class is loaded: it has to have "llava" in it.
    _, model, _, _ = load_pretrained_model(job["model"], None, "llava-v1.5", device=job["device"], **how)
    dtype = getattr(torch, job["dtype"])
    model = model.to(dtype).eval()

    def answer(prompt: dict[str, Any], count: int) -> list[int]:
        picture = torch.full((1,), PICTURE, device=job["device"])
        ids = torch.cat((prompt["before"], picture, prompt["after"]))[None]
        side = prompt["pixels"].shape[-2:]
        out = model.generate(
            ids,
            images=prompt["pixels"].to(dtype),
            image_sizes=[(side[1], side[0])],
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            use_cache=True,
            **options.get("generate", {}),
        )
        out = out[0] if isinstance(out, tuple) else out  # some return more than tokens
        return list(out[0].tolist())[-count:]

    return model, answer
