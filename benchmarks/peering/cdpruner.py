"""Adapter: github.com/Theia-4869/CDPruner."""

from __future__ import annotations

from typing import Any

import torch

from peering import forks

PATHS = (".",)
CHANGES = (
    "CUDA streams and synchronize() do nothing",
    "built from its classes; its loader converts to half precision",
    "the dense model is its code with a selection of all tokens, without the search; it has no switch for that",
)


class Peer:
    """One model, which holds CLIP's text tower."""

    def __init__(self, job: dict[str, Any]) -> None:
        forks.without_cuda()
        from llava.model.language_model import llava_llama

        config = llava_llama.LlavaLlamaConfig(**forks.settings(job))
        self.decoder = forks.build(llava_llama.LlavaLlamaForCausalLM, config, job, 0)
        self.decoder.get_vision_tower().load_text_tower()
        self.encode = self.decoder.encode_images
        self.question = job["question"]

    def choose(self, options: dict[str, Any]) -> None:
        self.decoder.visual_token_num = options.get("retain")
        self.decoder.encode_images = self.encode if options else self.encode_all

    def encode_all(self, images: torch.Tensor, texts: Any = None) -> Any:
        features = self.decoder.get_model().mm_projector(self.decoder.get_vision_tower()(images))
        return features, torch.ones(features.shape[:2], dtype=torch.bool)

    def prefill(self, prompt: dict[str, Any]) -> int:
        pixels = prompt["pixels"] if len(prompt["pixels"]) == 1 else prompt["pixels"][None]
        return forks.generated(self.decoder, forks.prompt_ids(prompt), pixels, texts=self.question)

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        kept: list[list[int]] = []
        encode = self.decoder.encode_images

        def noted(*given: Any, **named: Any) -> Any:
            features, masks = encode(*given, **named)
            if not masks.all():
                kept.append(masks.flatten().nonzero()[:, 0].tolist())
            return features, masks

        with forks.replaced(self.decoder, encode_images=noted), forks.caches(self.decoder.model) as found:
            token = self.prefill(prompt)
        return {"token": token, "kept": kept, "cache": found[0]}
