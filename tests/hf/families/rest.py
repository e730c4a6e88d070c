"""DeepSeek-VL and Janus; Chameleon and Emu3, whose pictures are words of the vocabulary; Fuyu, which has no encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import base
from .base import Family, Sample

SIDE, PATCH = 40, 8
TOKENS = (SIDE // PATCH) ** 2  # 25 of a picture
BEGIN, END = "<begin>", "<end>"
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
VQ = {
    "base_channels": 32,
    "num_res_blocks": 1,
    "embed_dim": 8,
    "latent_channels": 8,
}  # 32: their group norm's
CODES = 24  # of a picture's words, the last ones of the vocabulary


def words() -> Any:
    """A tokenizer with the tokens of and around a picture."""
    return base.tokenizer(image_token="<image>", boi_token=BEGIN, eoi_token=END, video_token="<video>")


def silent() -> list[int]:
    """Their ids, the picture's first, the clip's last."""
    return words().convert_tokens_to_ids(["<image>", BEGIN, END, "<video>"])


def pictures(samples: Sequence[Sample]) -> list[Image.Image]:
    return [image for sample in samples for image in sample.images]


def expanded(
    samples: Sequence[Sample], images: Sequence[str], videos: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Token ids in which every `<image>` and `<video>` has become its text of these, left-padded."""
    spans = {"<image>": iter(images), "<video>": iter(videos)}
    text = [re.sub("<image>|<video>", lambda found: next(spans[found[0]]), sample.text) for sample in samples]
    return dict(words()(text, padding=True, return_tensors="pt", return_token_type_ids=False))


def pixels(image: Image.Image, width: int = SIDE, height: int = SIDE) -> Tensor:
    """A picture as numbers from -1 to 1, [3, height, width]."""
    array = np.array(image.resize((width, height)), dtype=np.float32)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)


# -- A vision tower (or two), a projector, Llama --------------------------------------------------------------


def _deepseek_vl(attention: str) -> Any:
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        LlamaConfig,
        SiglipVisionConfig,
    )

    base.seed()
    image, *around = silent()
    config = DeepseekVLConfig(
        text_config=LlamaConfig(**base.TEXT),
        vision_config=SiglipVisionConfig(**SIGLIP),
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(DeepseekVLForConditionalGeneration(config), image, *around)


def _deepseek_vl_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import DeepseekVLProcessor
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

    pixels = DeepseekVLImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _processed(DeepseekVLProcessor(pixels, words(), num_image_tokens=TOKENS), samples)


def _deepseek_vl_hybrid(attention: str) -> Any:
    from transformers import (
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
        LlamaConfig,
        SamVisionConfig,
        SiglipVisionConfig,
    )

    base.seed()
    image, *around = silent()
    sam = SamVisionConfig(
        hidden_size=16,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=2 * SIDE,
        patch_size=PATCH,
        window_size=4,
        global_attn_indexes=[0],
        mlp_dim=24,
    )
    config = DeepseekVLHybridConfig(
        text_config=LlamaConfig(**base.TEXT),
        vision_config=SiglipVisionConfig(**SIGLIP),
        high_res_vision_config=sam,
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(DeepseekVLHybridForConditionalGeneration(config), image, *around)


def _deepseek_vl_hybrid_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import DeepseekVLHybridProcessor
    from transformers.models.deepseek_vl_hybrid import image_processing_pil_deepseek_vl_hybrid as pil

    pixels = pil.DeepseekVLHybridImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, high_res_size={"height": 2 * SIDE, "width": 2 * SIDE}
    )
    return _processed(DeepseekVLHybridProcessor(pixels, words(), num_image_tokens=TOKENS), samples)


def _janus(attention: str) -> Any:
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    base.seed()
    image, *around = silent()
    vision = {key: value for key, value in SIGLIP.items() if key != "intermediate_size"}
    config = JanusConfig(
        text_config=LlamaConfig(**base.TEXT),
        vision_config=JanusVisionConfig(
            **vision, mlp_ratio=1.5, projection_dim=base.TEXT["hidden_size"], num_image_tokens=TOKENS
        ),
        # Only of use when it paints.
        vq_config=JanusVQVAEConfig(
            **VQ, num_embeddings=CODES, channel_multiplier=[1], projection_dim=16, image_token_embed_dim=16
        ),
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(JanusForConditionalGeneration(config), image, *around)


def _janus_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import JanusProcessor
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    pixels = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _processed(JanusProcessor(pixels, words(), num_image_tokens=TOKENS), samples)


def _processed(processor: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    return dict(
        processor(
            text=[sample.text for sample in samples],
            images=pictures(samples) or None,
            padding=True,
            return_tensors="pt",
        )
    )


# -- Pictures as words of the vocabulary: placeholder ids mark where their embeddings go ----------------------


def _chameleon(attention: str) -> Any:
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonVQVAEConfig

    base.seed()
    image, *around = silent()
    text = {key: value for key, value in base.TEXT.items() if key != "head_dim"}
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    first = text["vocab_size"] - CODES
    codes = {f"IMGIMG{str(code).translate(letters)}Z": first + code for code in range(CODES)}
    config = ChameleonConfig(
        **text,
        vq_config=ChameleonVQVAEConfig(
            **VQ,
            num_embeddings=CODES,
            channel_multiplier=[1, 1, 1, 1],
            resolution=SIDE,
            attn_resolutions=[PATCH],
        ),
        vocabulary_map={"<image>": image, **codes},
        attn_implementation=attention,
    )
    return base.finish(ChameleonForConditionalGeneration(config), image, *around)


def _chameleon_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import ChameleonProcessor
    from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

    pixels = ChameleonImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    tokenizer = words()
    tokenizer.sep_token = "</s>"
    return _processed(ChameleonProcessor(pixels, tokenizer, image_seq_length=TOKENS), samples)


def _emu3(attention: str) -> Any:
    from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3TextConfig, Emu3VQVAEConfig

    base.seed()
    image, *around = silent()
    first = base.TEXT["vocab_size"] - CODES
    codes = {f"<|visual token {code:06d}|>": first + code for code in range(CODES)}
    config = Emu3Config(
        text_config=Emu3TextConfig(**base.TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        vq_config=Emu3VQVAEConfig(
            **VQ,
            codebook_size=CODES,
            channel_multiplier=[1, 1, 1, 1],
            temporal_downsample_factor=2,
            hidden_size=VQ["base_channels"],
        ),
        vocabulary_map={"<image>": image, "<|extra_200|>": first - 1, **codes},
        attn_implementation=attention,
    )
    return base.finish(Emu3ForConditionalGeneration(config), image, *around)


def _emu3_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    images = pictures(samples)
    side = SIDE // PATCH
    span = f"{BEGIN} {side}*{side} " + "<image>" * (side * (side + 1)) + END  # a token at each row's end
    prompt = expanded(samples, [span] * len(images))
    if images:
        prompt["pixel_values"] = torch.stack([pixels(image) for image in images])
        prompt["image_sizes"] = torch.tensor([[SIDE, SIDE]] * len(images))
    return prompt


# -- Patches as they are --------------------------------------------------------------------------------------


def _fuyu(attention: str) -> Any:
    from transformers import FuyuConfig, FuyuForCausalLM, PersimmonConfig

    base.seed()
    image, *around = silent()
    text = {key: value for key, value in base.TEXT.items() if key not in ("head_dim", "num_key_value_heads")}
    config = FuyuConfig(
        text_config=PersimmonConfig(**text),
        patch_size=PATCH,
        initializer_range=0.3,
        image_token_id=image,
        attn_implementation=attention,
    )
    return base.finish(FuyuForCausalLM(config), image, *around)


def _fuyu_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    rows, spans = [], []
    for image in pictures(samples):
        width, height = (round(n / 2 / PATCH) for n in image.size)
        patches = pixels(image, width * PATCH, height * PATCH).unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
        rows.append(patches.permute(1, 2, 3, 4, 0).flatten(0, 1).flatten(1))
        spans.append(("<image>" * width + END) * height)
    prompt = expanded(samples, spans)
    if rows:
        name = "pixel_values" if base.takes("FuyuForCausalLM", "pixel_values") else "image_patches"
        prompt[name] = torch.cat(rows)
    return prompt


FAMILIES = (
    Family("deepseek_vl", _deepseek_vl, _deepseek_vl_prompts),
    Family("deepseek_vl_hybrid", _deepseek_vl_hybrid, _deepseek_vl_hybrid_prompts),
    Family("janus", _janus, _janus_prompts),
    Family("chameleon", _chameleon, _chameleon_prompts, decoder="pictures are words"),
    # Its image processor needs torchvision.
    Family("emu3", _emu3, _emu3_prompts, inputs="tensors", decoder="pictures are words"),
    # Its processor takes one picture per prompt.
    Family(
        "fuyu",
        _fuyu,
        _fuyu_prompts,
        inputs="tensors",
        decoder="no encoder",
        broken={"beams": "transformers repeats every patch for each beam"},
    ),
)
