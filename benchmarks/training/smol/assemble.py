"""The trained model as a folder that `--model` takes: a stock LLaVA, from the base model and what was trained."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sparsesight import bundled
from sparsesight.scenes.scenes import PATCH

from .base import Base
from .pictures import PATCHES
from .prompts import END

IMAGE = "<image>"
SPARE = "<empty_output>"  # a reserved token of the base that plain text never has; it becomes IMAGE
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def assemble(base: Base, delta: Path, folder: Path) -> None:
    """Write the model in bfloat16 and its processor into `folder`; `delta` is what `export.save` wrote."""
    eyes, processor = bundled.load()
    image_token = base.tokenizer.convert_tokens_to_ids(SPARE)
    config = LlavaConfig(
        vision_config=deepcopy(eyes.config.vision_config),
        text_config=deepcopy(base.config),
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    trained = load_file(delta)
    model.model.vision_tower.load_state_dict(eyes.model.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(
        {
            name: trained[f"projector.{name}"]
            for name in ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")
        }
    )
    decoder = {
        name.removeprefix("model."): weight for name, weight in base.state.items() if name != "lm_head.weight"
    }
    for name in sorted({key.rpartition(".")[0] for key in trained if not key.startswith("projector.")}):
        a, b = trained[f"{name}.a"].float(), trained[f"{name}.b"].float()
        decoder[f"{name}.weight"] = decoder[f"{name}.weight"] + b @ a
    model.model.language_model.load_state_dict(decoder)
    model.tie_weights()
    end = base.tokenizer.convert_tokens_to_ids(END)
    model.generation_config = GenerationConfig(
        bos_token_id=base.config.bos_token_id, eos_token_id=end, pad_token_id=end
    )
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=with_image_token(base.tokenizer),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    ).save_pretrained(folder)


def with_image_token(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The tokenizer with the reserved token renamed, so that the vocabulary keeps its size."""
    told = json.loads(tokenizer.backend_tokenizer.to_str().replace(json.dumps(SPARE), json.dumps(IMAGE)))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)),
        bos_token=tokenizer.bos_token,
        eos_token=END,
        pad_token=END,
        unk_token=tokenizer.unk_token,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=8192,
    )
