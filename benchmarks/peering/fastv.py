"""Adapter: github.com/pkunlp-icler/FastV, its LLaVA and its transformers 4.31, as its latency experiment runs them."""

from __future__ import annotations

from typing import Any

from peering import forks

PATHS = ("src/LLaVA", "src/transformers/src")
CHANGES = ("built from its classes; its loader converts to half precision",)


class Peer:
    """One model, whose configuration turns pruning on and off."""

    def __init__(self, job: dict[str, Any]) -> None:
        from llava.model.language_model import llava_llama

        config = llava_llama.LlavaConfig(**forks.settings(job))
        self.decoder = forks.build(llava_llama.LlavaLlamaForCausalLM, config, job)
        self.visual = job["visual"]
        self.before = job["before"]

    def choose(self, options: dict[str, Any]) -> None:
        config = self.decoder.config
        config.use_fast_v = config.fast_v_inplace = bool(options)
        config.fast_v_sys_length, config.fast_v_image_token_length = self.before, self.visual
        config.fast_v_attention_rank = options.get("retain")
        config.fast_v_agg_layer = options.get("after")
        self.decoder.model.reset_fastv()

    def prefill(self, prompt: dict[str, Any], cached: bool = False) -> int:
        """Its experiment asks for all attention, which selection reads in one layer, and for no cache."""
        more = {"output_attentions": True, "output_scores": True, "return_dict_in_generate": True}
        pixels = prompt["pixels"] if len(prompt["pixels"]) == 1 else prompt["pixels"][None]
        return forks.generated(self.decoder, forks.prompt_ids(prompt), pixels, use_cache=cached, **more)

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        kept: list[list[int]] = []

        def noted(_: Any, __: Any, named: dict[str, Any]) -> None:
            found = named["position_ids"][0]
            if len(found) < self.visual:
                inside = (found >= self.before) & (found < self.before + self.visual)
                kept.append((found[inside] - self.before).tolist())

        hook = self.decoder.model.layers[-1].register_forward_pre_hook(noted, with_kwargs=True)
        try:
            with forks.caches(self.decoder.model) as found:
                token = self.prefill(prompt, cached=True)
        finally:
            hook.remove()
        return {"token": token, "kept": kept, "cache": found[0]}
