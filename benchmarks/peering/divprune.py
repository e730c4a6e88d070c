"""Adapter: github.com/vbdi/divprune, its LLaVA."""

from __future__ import annotations

import os
from typing import Any

from peering import forks

PATHS = ("LLaVA",)
CHANGES = ("built from its classes; its loader converts to half precision",)


class Peer:
    """One model; the environment variables that its scripts set turn pruning on and off."""

    def __init__(self, job: dict[str, Any]) -> None:
        from llava.model.language_model import llava_llama

        config = llava_llama.LlavaConfig(**forks.settings(job))
        self.decoder = forks.build(llava_llama.LlavaLlamaForCausalLM, config, job)
        self.share: str | None = None
        os.environ["BASELINE"] = "OURS"

    def choose(self, options: dict[str, Any]) -> None:
        for name in ("LAYER_INDEX", "SUBSET_RATIO"):
            os.environ.pop(name, None)
        if options:
            os.environ.update(LAYER_INDEX="0", SUBSET_RATIO=str(options["share"]))

    def prefill(self, prompt: dict[str, Any]) -> int:
        # Several pictures are one list entry, as LLaVA-1.6 gives the tiles of one.
        pixels = prompt["pixels"] if len(prompt["pixels"]) == 1 else prompt["pixels"][None]
        return forks.generated(self.decoder, forks.prompt_ids(prompt), pixels)

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        kept: list[list[int]] = []
        choose = self.decoder.DivPrune

        def noted(*given: Any, **named: Any) -> Any:
            found, distances = choose(*given, **named)
            kept.append(sorted(found.tolist()))
            return found, distances

        with forks.replaced(self.decoder, DivPrune=noted), forks.caches(self.decoder.model) as found:
            token = self.prefill(prompt)
        return {"token": token, "kept": kept, "cache": found[0]}
