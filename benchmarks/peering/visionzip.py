"""Adapter: github.com/dvlab-research/VisionZip, in an environment with github.com/haotian-liu/LLaVA."""

from __future__ import annotations

from typing import Any

from peering import forks

PATHS = (".",)
CHANGES = ("built from LLaVA's classes; its loader converts to half precision",)


class Peer:
    """One model. VisionZip replaces methods of transformers' and LLaVA's classes; dense turns get them back."""

    def __init__(self, job: dict[str, Any]) -> None:
        from llava.model import llava_arch
        from llava.model.language_model import llava_llama
        from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
        from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer
        from visionzip import visionzip

        config = llava_llama.LlavaConfig(**forks.settings(job))
        self.decoder = forks.build(llava_llama.LlavaLlamaForCausalLM, config, job)
        self.tower = self.decoder.get_vision_tower()
        places = [
            (CLIPAttention, "forward"),
            (CLIPEncoderLayer, "forward"),
            (CLIPVisionTower, "forward"),
            (llava_arch.LlavaMetaForCausalLM, "prepare_inputs_labels_for_multimodal"),
        ]
        plain = self.tower.vision_tower.__class__
        before = [(owner, name, getattr(owner, name)) for owner, name in places]
        before.append((self.tower.vision_tower, "__class__", plain))
        visionzip(self.decoder, dominant=54, contextual=10)
        after = [(owner, name, getattr(owner, name)) for owner, name, _ in before]
        self.code = {False: before, True: after}

    def choose(self, options: dict[str, Any]) -> None:
        for owner, name, value in self.code[bool(options)]:
            setattr(owner, name, value)
        if options:  # as its function sets them: the class token is one of the dominant ones
            info = self.tower.vision_tower._info
            info.update(dominant=options["dominant"] - 1, contextual=options["contextual"])

    def prefill(self, prompt: dict[str, Any]) -> int:
        pixels = prompt["pixels"] if len(prompt["pixels"]) == 1 else prompt["pixels"][None]
        return forks.generated(self.decoder, forks.prompt_ids(prompt), pixels)

    def look(self, prompt: dict[str, Any]) -> dict[str, Any]:
        kept: list[list[int]] = []
        size = prompt["visual"] // len(prompt["pixels"])

        forward = type(self.tower).forward  # its code calls this itself, which no hook sees

        def noted(tower: Any, *given: Any, **named: Any) -> Any:
            out = forward(tower, *given, **named)
            if isinstance(out, tuple):  # the class token is row 0
                rows = [x - 1 + i * size for i, row in enumerate(out[1].tolist()) for x in row if x]
                kept.append(sorted(rows))
            return out

        with (
            forks.replaced(type(self.tower), forward=noted),
            forks.caches(self.decoder.model) as found,
        ):
            token = self.prefill(prompt)
        return {"token": token, "kept": kept, "cache": found[0]}
