"""The trained model as a folder that `--model` takes: a stock LLaVA, from the base model and what was trained."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ...scenes.scenes import GRID, PATCH
from . import TEMPLATE, TOWER
from .base import END, Base

IMAGE = "<image>"
SPARE = "<empty_output>"  # a reserved token of the base that plain text never has; it becomes IMAGE


def assemble(base: Base, delta: Path, folder: Path) -> None:
    """Write the model in bfloat16 and its processor into `folder`.

    Args:
        base: the language model.
        delta: bfloat16 tensors: `projector.NAME`, and `tower.NAME` of the vision tower, unless it is the bundled
            model's; and `LAYER.a` [rank, in], `LAYER.b` [out, rank] of what is added to LAYER's weight, as `factor`
            reads them.
        folder: made if it is not there.
    """
    eyes: Any = AutoModelForImageTextToText.from_pretrained(TOWER, dtype=torch.float32, local_files_only=True)
    processor = AutoProcessor.from_pretrained(TOWER, local_files_only=True)
    image_token = base.tokenizer.convert_tokens_to_ids(SPARE)
    trained = load_file(delta)
    tower, projector = (
        {key.removeprefix(part): trained.pop(key) for key in [*trained] if key.startswith(part)}
        for part in ("tower.", "projector.")
    )
    sight = deepcopy(eyes.config.vision_config)
    if tower:  # its layers may have more hidden units than the bundled model's
        sight.intermediate_size = hidden_units(tower)
    config = LlavaConfig(
        vision_config=sight,
        text_config=deepcopy(base.config),
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).bfloat16()
    model.model.vision_tower.load_state_dict(tower or eyes.model.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(projector)
    decoder = {
        name.removeprefix("model."): weight for name, weight in base.state.items() if name != "lm_head.weight"
    }
    for name in sorted(key.removesuffix(".a") for key in trained if key.endswith(".a")):
        # In float64 sums of products of such numbers are exact, so every machine gets the same weights.
        a, b = factor(trained, f"{name}.a", 1), factor(trained, f"{name}.b", 0)
        decoder[f"{name}.weight"] = decoder[f"{name}.weight"].double() + b @ a
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
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
    ).save_pretrained(folder)


def hidden_units(weights: dict[str, torch.Tensor]) -> int:
    """In each layer of the vision tower that is among these weights."""
    return next(len(weight) for name, weight in weights.items() if name.endswith("fc1.weight"))


def factor(trained: dict[str, torch.Tensor], name: str, across: int) -> torch.Tensor:
    """A factor of a delta in float64: bfloat16 numbers, or 8-bit ones times `NAME.scale`, which has one for each rank.

    `across` is the dimension that a rank's numbers lie along.
    """
    told = trained[name]
    if told.dtype != torch.int8:
        return told.double()
    return told.double() * trained[f"{name}.scale"].double().unsqueeze(across)


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


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names, shapes and numbers of a model's weights, whatever the layout of its file."""
    found = hashlib.sha256()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in sorted(file.keys()):
            weight = file.get_tensor(name)
            found.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
            found.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
