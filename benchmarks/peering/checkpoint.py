"""Random weights of LLaVA's shape, in files that every contestant can read whatever its version of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# A picture is 24 x 24 patches of 4 x 4 pixels, as many as LLaVA-1.5 has. The tower has 24 layers because VisionZip's
# code counts on them; it is thin, so that the decoder is what is measured.
GRID, PATCH = 24, 4
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 24, "num_attention_heads": 4}
TEXT_TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOW = 77  # tokens of the text tower
SPACE = 64  # width of the space that both towers share
VOCABULARY = 1000
BEFORE = 35  # text tokens before the picture: DivPrune's code counts on LLaVA-1.5's system prompt
QUESTION = "what is left of the red cup"


def write_checkpoint(folder: Path, sizes: dict[str, int]) -> None:
    """Write ``decoder.pt`` (decoder, projector), ``clip/`` (both towers), ``shape.json`` and ``prompt.pt``.

    Queries and keys have twice the usual spread and embeddings are of the size of features, so that attention and
    similarities differ from token to token by far more than rounding does.

    Args:
        folder: an existing folder.
        sizes: layers, hidden, ffn, heads; text: tokens before and after the pictures; tiles: pictures of 576 tokens,
            one after the other without text between; seed: of all random numbers.
    """
    random = torch.Generator().manual_seed(sizes["seed"])
    tiles = sizes["tiles"]
    names = dict(decoder(random, sizes))
    torch.save(names, folder / "decoder.pt")
    write_clip(folder / "clip", random)
    text = torch.randint(5, VOCABULARY - 100, (sizes["text"],), generator=random)
    pixels = torch.randn(tiles, 3, GRID * PATCH, GRID * PATCH, generator=random)
    visual = tiles * GRID**2
    prompt = {"before": text[:BEFORE], "after": text[BEFORE:], "pixels": pixels, "visual": visual}
    torch.save(prompt, folder / "prompt.pt")
    (folder / "shape.json").write_text(json.dumps(sizes))  # the last: it says that all is there


def decoder(random: torch.Generator, sizes: dict[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of LLaVA's own code."""

    def normal(std: float, *shape: int) -> Tensor:
        return torch.empty(shape).normal_(0, std, generator=random)

    hidden, ffn = sizes["hidden"], sizes["ffn"]
    yield "model.embed_tokens.weight", normal(0.2, VOCABULARY, hidden)
    yield "lm_head.weight", normal(0.02, VOCABULARY, hidden)
    yield "model.norm.weight", 1 + normal(0.1, hidden)
    usual = hidden**-0.5
    for layer in range(sizes["layers"]):
        at = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj"):
            yield f"{at}self_attn.{name}.weight", normal(1.3 * usual, hidden, hidden)
        for name in ("v_proj", "o_proj"):
            yield f"{at}self_attn.{name}.weight", normal(0.6 * usual, hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            yield f"{at}mlp.{name}.weight", normal(0.6 * usual, ffn, hidden)
        yield f"{at}mlp.down_proj.weight", normal(0.6 * usual, hidden, ffn)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{name}.weight", 1 + normal(0.1, hidden)
    yield "model.mm_projector.0.weight", normal(0.15, hidden, TOWER["hidden_size"])
    yield "model.mm_projector.0.bias", normal(0.1, hidden)
    yield "model.mm_projector.2.weight", normal(0.3 * usual, hidden, hidden)
    yield "model.mm_projector.2.bias", normal(0.02, hidden)


def write_clip(folder: Path, random: torch.Generator) -> None:
    """A CLIP with both towers, its tokenizer of single letters, and its image processor's settings."""
    from safetensors.torch import save_file

    folder.mkdir()
    weights = {
        name: torch.empty(shape).normal_(0, std, generator=random) + (1 if shift else 0)
        for name, shape, std, shift in clip_parts()
    }
    weights["logit_scale"] = torch.tensor(2.6592)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    letters = [chr(x) for x in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    begin, end = len(tokens) - 2, len(tokens) - 1
    image = {"image_size": GRID * PATCH, "patch_size": PATCH}
    known = {"vocab_size": len(tokens), "bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    config: dict[str, Any] = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": SPACE,
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": SPACE, **TOWER, **image},
        "text_config": {
            "model_type": "clip_text_model",
            "projection_dim": SPACE,
            "max_position_embeddings": WINDOW,
            **TEXT_TOWER,
            **known,
        },
    }
    side = GRID * PATCH
    special = {"bos_token": tokens[begin], "eos_token": tokens[end], "unk_token": tokens[end]}
    texts = {
        "config.json": config,
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": WINDOW, **special},
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": side, "width": side},
            "size": {"shortest_edge": side},
        },
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def clip_parts() -> Iterator[tuple[str, tuple[int, ...], float, bool]]:
    """Name, shape, spread, and whether it is around 1, of every weight of the CLIP."""
    for tower, sizes in (("vision_model", TOWER), ("text_model", TEXT_TOWER)):
        width, inner = sizes["hidden_size"], sizes["intermediate_size"]
        for layer in range(sizes["num_hidden_layers"]):
            at = f"{tower}.encoder.layers.{layer}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{at}self_attn.{name}.weight", (width, width), width**-0.5, False
                yield f"{at}self_attn.{name}.bias", (width,), 0.02, False
            yield f"{at}mlp.fc1.weight", (inner, width), width**-0.5, False
            yield f"{at}mlp.fc1.bias", (inner,), 0.02, False
            yield f"{at}mlp.fc2.weight", (width, inner), inner**-0.5, False
            yield f"{at}mlp.fc2.bias", (width,), 0.02, False
            for name in ("layer_norm1", "layer_norm2"):
                yield f"{at}{name}.weight", (width,), 0.1, True
                yield f"{at}{name}.bias", (width,), 0.02, False
    width = TOWER["hidden_size"]
    at = "vision_model.embeddings."
    yield f"{at}class_embedding", (width,), 1.0, False
    yield f"{at}patch_embedding.weight", (width, 3, PATCH, PATCH), (3 * PATCH**2) ** -0.5, False
    yield f"{at}position_embedding.weight", (GRID**2 + 1, width), 0.5, False
    for name in ("pre_layrnorm", "post_layernorm"):
        yield f"vision_model.{name}.weight", (width,), 0.1, True
        yield f"vision_model.{name}.bias", (width,), 0.02, False
    text = TEXT_TOWER["hidden_size"]
    yield "text_model.embeddings.token_embedding.weight", (2 * 26 + 2, text), 0.5, False
    yield "text_model.embeddings.position_embedding.weight", (WINDOW, text), 0.5, False
    yield "text_model.final_layer_norm.weight", (text,), 0.1, True
    yield "text_model.final_layer_norm.bias", (text,), 0.02, False
    yield "visual_projection.weight", (SPACE, width), width**-0.5, False
    yield "text_projection.weight", (SPACE, text), text**-0.5, False
