"""InternVL as its authors publish it (`InternVLChatModel`), written from the same weights in transformers' form."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, Qwen2Config


class ChatConfig(PretrainedConfig):
    """Its config, which published checkpoints bring along as code."""

    model_type = "internvl_chat"
    sub_configs = {"vision_config": PretrainedConfig, "llm_config": Qwen2Config}  # noqa: RUF012

    def __init__(
        self, vision_config: dict | None = None, llm_config: dict | None = None, **more: object
    ) -> None:
        self.vision_config = PretrainedConfig(**(vision_config or {}))
        self.llm_config = Qwen2Config(**(llm_config or {}))
        super().__init__(**more)


# Parts of names: transformers', then the authors'. Order matters: the first that fits.
NAMES = (
    ("model.language_model.", "language_model.model."),
    ("language_model.model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("language_model.lm_head.", "language_model.lm_head."),
    ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    ("vision_tower.embeddings.patch_embeddings.projection.", "vision_model.embeddings.patch_embedding."),
    ("multi_modal_projector.layer_norm.", "mlp1.0."),
    ("multi_modal_projector.linear_1.", "mlp1.1."),
    ("multi_modal_projector.linear_2.", "mlp1.3."),
)
LAYER = {
    "attention.projection_layer.": "attn.proj.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
    "mlp.": "mlp.",
}


def renamed(name: str) -> str:
    """The authors' name of a weight, but for queries, keys and values of the tower."""
    layer = "vision_tower.encoder.layer."
    if layer in name:
        number, rest = name.split(layer)[1].split(".", 1)
        old = next(x for x in LAYER if rest.startswith(x))
        return f"vision_model.encoder.layers.{number}.{LAYER[old]}{rest.removeprefix(old)}"
    bare = name if name.startswith("model.language_model.") else name.removeprefix("model.")
    old, new = next((old, new) for old, new in NAMES if bare.startswith(old))
    return new + bare.removeprefix(old)


def rewrite(path: Path) -> Path:
    """A checkpoint beside ``path``, of the same weights."""
    AutoConfig.register("internvl_chat", ChatConfig, exist_ok=True)
    given = json.loads((path / "config.json").read_text())
    weights: dict[str, Tensor] = load_file(path / "model.safetensors")
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attention.q_proj." in name:
            every = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            number = name.split("encoder.layer.")[1].split(".")[0]
            kind = name.rsplit(".", 1)[1]
            made[f"vision_model.encoder.layers.{number}.attn.qkv.{kind}"] = torch.cat(every)
        elif ".attention.k_proj." not in name and ".attention.v_proj." not in name:
            made[renamed(name)] = weight.contiguous()
    vision = given["vision_config"]
    side, patch = vision["image_size"][0], vision["patch_size"][0]
    vision |= {"image_size": side, "patch_size": patch, "qkv_bias": vision["attention_bias"]}
    vision |= {"qk_normalization": False, "initializer_factor": 1.0}
    config = ChatConfig(
        architectures=["InternVLChatModel"],
        vision_config=vision,
        llm_config={**given["text_config"], "architectures": ["Qwen2ForCausalLM"]},
        force_image_size=side,
        downsample_ratio=given["downsample_ratio"],
        ps_version="v2",
        select_layer=-1,
        dynamic_image_size=True,
        use_thumbnail=True,
        min_dynamic_patch=1,
        max_dynamic_patch=2,
        dtype="float32",
        tie_word_embeddings="lm_head.weight" not in weights,
    )
    out = path.with_name(path.name + "-chat")
    out.mkdir()
    config.save_pretrained(out)
    AutoTokenizer.from_pretrained(path).save_pretrained(out)
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    (out / "generation_config.json").write_text((path / "generation_config.json").read_text())
    return out
