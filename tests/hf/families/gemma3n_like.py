"""Gemma 3n: four hidden streams, keys shared by the last layers, per-layer inputs; behind a tower of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import base, by_hand
from .base import Family, Sample
from .gemma4_like import SLIDING
from .gemma_like import WINDOW

SIDE, PATCH, WIDTH = 60, 12, 16
COUNT = (SIDE // PATCH) ** 2  # visual tokens of a picture
TOKENS = {"image_token": "<image>", "audio_token": "<audio>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
VISION_IDS, AUDIO_IDS = 48, 56  # where the ids of towers begin, of 64


def _tower() -> type:
    """The config of a tower for which transformers builds one convolution: its own needs timm."""
    from transformers import AutoModel, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

    class TowerConfig(Gemma3nVisionConfig):  # type: ignore[misc]
        model_type = "gemma3n_vision"

    class Tower(PreTrainedModel):
        config_class = TowerConfig
        _supports_sdpa = True

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.patches = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)
            self.post_init()

        def forward(self, pixel_values: torch.Tensor, **how: Any) -> Any:
            return BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values))

    AutoModel.register(TowerConfig, Tower, exist_ok=True)
    return TowerConfig


def _build(attention: str) -> Any:
    from transformers import (
        Gemma3nAudioConfig,
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
        Gemma3nTextConfig,
    )

    base.seed()
    words = base.tokenizer(**TOKENS)
    layers = 10
    text = Gemma3nTextConfig(
        **base.TEXT
        | {
            "num_hidden_layers": layers,
            # Nothing goes from where the shared keys are made: layers 1 to 3 are left.
            "layer_types": [SLIDING[0], "full_attention", "full_attention", "full_attention", *SLIDING[:6]],
            "num_kv_shared_layers": 4,
            "sliding_window": WINDOW,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.5] * 2 + [0.0] * (layers - 2),
        }
    )
    audio = Gemma3nAudioConfig(
        vocab_size=8,
        vocab_offset=AUDIO_IDS,
        input_feat_size=16,
        hidden_size=16,
        conf_num_attention_heads=2,
        conf_num_hidden_layers=1,
        sscp_conv_channel_size=(4, 4),
    )
    config = Gemma3nConfig(
        text_config=text,
        vision_config=_tower()(hidden_size=WIDTH, vocab_size=8, vocab_offset=VISION_IDS),
        audio_config=audio,
        vision_soft_tokens_per_image=COUNT,
        image_token_id=words.image_token_id,
        audio_token_id=words.audio_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        initializer_range=0.3,
        attn_implementation=attention,
    )
    model = Gemma3nForConditionalGeneration(config)
    return base.finish(model, *words.convert_tokens_to_ids([*TOKENS.values()]))


def _prompts(samples: Sequence[Sample]) -> dict[str, Any]:
    out = by_hand.words(base.tokenizer(**TOKENS), samples, lambda _: f"<boi>{'<image>' * COUNT}<eoi>")
    found = [by_hand.pixels(image, SIDE, SIDE) for sample in samples for image in sample.images]
    return out | ({"pixel_values": torch.stack(found)} if found else {})


FAMILIES = (
    Family(
        "gemma3n",
        _build,
        _prompts,
        inputs="tensors",
        decoder="sliding window, keys shared by the last layers, per-layer inputs, four hidden streams",
        kinds="wfffwfwfwf",
    ),
)
