"""Idefics 2 and 3, SmolVLM and Granite Docling: pictures in tiles, each a row of pooled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import base, by_hand
from .base import Family, Sample

SIDE, PATCH = 48, 8
SMOL = 64  # SmolVLM's is larger
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": 0.3,
}
TILE = (SIDE // PATCH // 2) ** 2  # tokens of a tile, pooled 2 x 2
AROUND, ROWS = "<fake_token_around_image>", [f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)]
MARKS = (AROUND, "<global-img>", "<end_of_utterance>", *ROWS)
WINDOW = 20


def _words() -> Any:
    return base.tokenizer(*MARKS, image_token="<image>", image_boundary_token=AROUND)


def _finished(model: Any) -> Any:
    return base.finish(model, *_words().convert_tokens_to_ids(["<image>", *MARKS]))


def _idefics3(attention: str) -> Any:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig

    base.seed()
    config = Idefics3Config(
        text_config=LlamaConfig(**base.TEXT),
        vision_config=VISION,
        image_token_id=_words().image_token_id,
        scale_factor=2,
        attn_implementation=attention,
    )
    return _finished(Idefics3ForConditionalGeneration(config))


def _idefics3_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(images, _words(), image_seq_len=TILE)
    return _run(processor, samples)


def _run(processor: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    pictures = [list(s.images) for s in samples] if any(s.images for s in samples) else None
    texts = [s.text for s in samples]
    return dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))


def _smolvlm(attention: str) -> Any:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    base.seed()
    config = SmolVLMConfig(
        text_config=LlamaConfig(**base.TEXT),
        vision_config=VISION | {"image_size": SMOL},
        image_token_id=_words().image_token_id,
        scale_factor=2,
        attn_implementation=attention,
    )
    return _finished(SmolVLMForConditionalGeneration(config))


def _smolvlm_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    # Frames of a clip are pictures of one tile.
    tile = f"{AROUND}<global-img>{'<image>' * (SMOL // PATCH // 2) ** 2}{AROUND}"
    out = by_hand.words(_words(), samples, lambda _: tile, lambda clip: " ".join([tile] * len(clip)))
    found = [[by_hand.pixels(f, SMOL, SMOL) for f in by_hand.frames(s)] for s in samples]
    most = max(map(len, found))
    if most:
        out["pixel_values"] = torch.zeros(len(samples), most, 3, SMOL, SMOL)
        for row, pictures in zip(out["pixel_values"], found, strict=True):
            for place, picture in zip(row, pictures, strict=False):
                place.copy_(picture)
    return out


def _idefics2(attention: str) -> Any:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig

    base.seed()
    config = Idefics2Config(
        text_config=MistralConfig(**base.TEXT, sliding_window=WINDOW),
        vision_config=VISION,
        perceiver_config={
            "hidden_size": base.TEXT["hidden_size"],
            "resampler_n_latents": 16,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
            "initializer_range": 0.3,
        },
        image_token_id=_words().image_token_id,
        attn_implementation=attention,
    )
    model = Idefics2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.connector.perceiver_resampler.latents)  # all alike otherwise
    return _finished(model)


def _idefics2_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import Idefics2Processor
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    # Square, or the padding of pictures would depend on their neighbours in the batch.
    images = Idefics2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _run(Idefics2Processor(images, _words(), image_seq_len=16), samples)


def _granite(attention: str) -> Any:
    from transformers import (
        GraniteDoclingConfig,
        GraniteDoclingForConditionalGeneration,
        GraniteDoclingTextConfig,
        GraniteDoclingVisionConfig,
    )

    base.seed()
    size = base.TEXT["hidden_size"]
    config = GraniteDoclingConfig(
        text_config=GraniteDoclingTextConfig(
            **base.TEXT, pad_token_id=0, embedding_multiplier=2.0, residual_multiplier=0.7
        ),
        vision_config=GraniteDoclingVisionConfig(
            **VISION, out_hidden_size=size, scale_factor=2, deepstack_visual_indexes=[0, 1]
        ),
        image_token_id=_words().image_token_id,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return _finished(GraniteDoclingForConditionalGeneration(config))


def _granite_prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    from transformers import GraniteDoclingProcessor
    from transformers.models.granite_docling.image_processing_pil_granite_docling import (
        GraniteDoclingImageProcessorPil,
    )

    images = GraniteDoclingImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=4)
    return _run(GraniteDoclingProcessor(images, _words(), image_seq_len=TILE), samples)


FAMILIES = (
    Family("idefics3", _idefics3, _idefics3_prompts, visual_ids=(11,), layers="model.text_model.layers"),
    # Its processor needs num2words.
    Family(
        "smolvlm",
        _smolvlm,
        _smolvlm_prompts,
        visual="image, video",
        inputs="tensors",
        visual_ids=(11,),
        layers="model.text_model.layers",
    ),
    Family(
        "idefics2",
        _idefics2,
        _idefics2_prompts,
        decoder="sliding window",
        visual_ids=(11,),
        layers="model.text_model.layers",
        kinds="wwwwww",
    ),
    Family(
        "granite_docling",
        _granite,
        _granite_prompts,
        decoder="deepstack",
        visual_ids=(11,),
        layers="model.text_model.layers",
    ),
)
