"""Chameleon, Emu3 and Apertus, whose pictures are words of the vocabulary; Fuyu, which has no encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import base
from .base import Family, Sample
from .rest import (
    BEGIN,
    CODES,
    END,
    PATCH,
    SIDE,
    TOKENS,
    VQ,
    expanded,
    pictures,
    pixels,
    processed,
    silent,
    words,
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
    return processed(ChameleonProcessor(pixels, tokenizer, image_seq_length=TOKENS), samples)


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


def _apertus(attention: str) -> Any:
    from transformers import Apertus1p5Config, Apertus1p5ForConditionalGeneration

    base.seed()
    image, *around = silent()
    sounds = 4  # the last words of the vocabulary; pictures' come before them
    last = base.TEXT["vocab_size"] - sounds
    config = Apertus1p5Config(
        text_config={
            **{key: value for key, value in base.TEXT.items() if key != "head_dim"},
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config={
            **VQ,
            "codebook_size": CODES,
            "channel_multiplier": [1, 1, 1, 1],
            "resolution": SIDE,
            "attn_resolutions": [PATCH],
        },
        audio_config={
            "model_type": "wavtokenizer_encoder",
            "num_filters": 2,
            "num_lstm_layers": 1,
            "hidden_size": 8,
            "codebook_dim": 8,
            "codebook_size": sounds,
        },
        image_token_id=image,
        audio_token_id=around[0],
        image_token_offset=last - CODES,
        audio_token_offset=last,
        attn_implementation={"text_config": attention},
    )
    return base.finish(Apertus1p5ForConditionalGeneration(config), image, *around)


def _apertus_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    images = pictures(samples)
    sizes = [tuple(round(n / 2 / PATCH) * PATCH for n in image.size) for image in images]
    rows = [(height // PATCH, width // PATCH) for width, height in sizes]
    prompt = expanded(samples, [f"{BEGIN} {' '.join(['<image>' * w] * h)} {END}" for h, w in rows])
    if images:  # padded to one size
        found = [pixels(image, *size) for image, size in zip(images, sizes, strict=True)]
        most = [max(n) for n in zip(*(x.shape[1:] for x in found), strict=True)]
        whole = torch.zeros(len(found), 3, *most)
        for i, x in enumerate(found):
            whole[i, :, : x.shape[1], : x.shape[2]] = x
        prompt["pixel_values"] = whole
        prompt["image_sizes"] = torch.tensor([x.shape[1:] for x in found])
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
    Family("chameleon", _chameleon, _chameleon_prompts, decoder="pictures are words", layers="model.layers"),
    # Their image processors need torchvision.
    Family(
        "emu3",
        _emu3,
        _emu3_prompts,
        inputs="tensors",
        decoder="pictures are words",
        layers="model.text_model.layers",
    ),
    Family("apertus1p5", _apertus, _apertus_prompts, inputs="tensors", decoder="pictures are words"),
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
