"""Adapter: github.com/Gumpest/SparseVLMs: branch v1.5, or main (v2.0; with ``USE_VERSION=1_0`` the rules of v1.5)."""

from __future__ import annotations

from typing import Any

import torch

from peering import forks

PATHS = (".",)
CHANGES = (
    "CUDA events, synchronize() and Tensor.cuda() do nothing",
    "built from its classes; its loader expects 32 layers and half precision",
    "several pictures reach it as one of as many tokens; its code handles one",
    "branch v1.5: torch's causal attention in place of the flash_attn kernel",
)


class Peer:
    """Its sparse model, and as the dense one the plain LLaVA of the same checkout, with the same weights."""

    def __init__(self, job: dict[str, Any]) -> None:
        forks.without_cuda()
        from llava.model.language_model import llava_llama, modelling_sparse_llama, score, sparse_llava_llama

        self.code, self.score = modelling_sparse_llama, score
        config = sparse_llava_llama.LlavaConfig(**forks.settings(job))
        self.sparse = forks.build(sparse_llava_llama.LlavaLlamaDynamicForCausalLM, config, job)
        config = llava_llama.LlavaConfig(**forks.settings(job))
        self.dense = forks.build(llava_llama.LlavaLlamaForCausalLM, config, job)
        for model in (self.sparse, self.dense):
            model.encode_images = joined(model.encode_images)
        self.by_argument = not hasattr(score, "RETAIN_TOKN")  # branch v1.5
        self.merges = self.by_argument or not score.V2_0
        if self.by_argument:
            self.add_flash_attention()
        self.decoder = self.model = self.sparse
        self.more: dict[str, Any] = {}

    def add_flash_attention(self) -> None:
        """As its loader does, with the weights that are there."""
        flash = self.code.LlamaDynamicvitFlashAttention2
        flash._flash_attention_forward = causal_attention
        for i, layer in enumerate(self.sparse.model.layers):
            own = flash(config=self.sparse.config, layer_idx=i)
            own.load_state_dict(layer.self_attn.state_dict(), assign=True)
            layer.add_module("flash_attn", own.eval())

    def choose(self, options: dict[str, Any]) -> None:
        self.model = self.sparse if options else self.dense
        self.more = {"retained_tokens": options["retain"]} if options and self.by_argument else {}
        if options and not self.by_argument:
            self.score.RETAIN_TOKN = options["retain"]

    def prefill(self, prompt: dict[str, Any]) -> int:
        return forks.generated(self.model, forks.prompt_ids(prompt), prompt["pixels"], **self.more)

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        kept: list[list[int]] = []
        origin = torch.arange(prompt["visual"])
        choose = self.code.attn_postprocess_topk

        def noted(*given: Any) -> Any:
            nonlocal origin
            found = choose(*given)
            left, dropped = origin[found[0][0]], int((~found[0]).sum())
            kept.append(left[left >= 0].tolist())
            merged = (int(dropped * 0.3) + 1) // 10 + 1 if self.merges else 0
            origin = torch.cat((left, torch.full((merged,), -1)))  # merged tokens follow the kept ones
            return found

        with (
            forks.replaced(self.code, attn_postprocess_topk=noted),
            forks.caches(self.model.model) as found,
        ):
            token = self.prefill(prompt)
        return {"token": token, "kept": kept, "cache": found[0]}


def joined(encode: Any) -> Any:
    return lambda images: encode(images).flatten(0, 1)[None]


def causal_attention(_: Any, query: Any, key: Any, value: Any, mask: Any, length: int, **__: Any) -> Any:
    """In place of the flash_attn kernel; [b, n, heads, width], and back."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
    return out.transpose(1, 2)
