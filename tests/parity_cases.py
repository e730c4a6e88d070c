"""Golden fixtures of the reference implementation: where they are, and models built from them.

``SPARSESIGHT_PARITY_DIR`` names a directory of fixtures; the default is the full set beside the repository if it is
there, else the subset in ``tests/data/parity``. Other sets of the same format can be run the same way.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sparsesight import Method, SparseVLM, SparseVLMPlus

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "tests" / "data" / "parity"


def directory() -> Path:
    if named := os.environ.get("SPARSESIGHT_PARITY_DIR"):
        return Path(named)
    full = ROOT.parent / "shared" / "parity"
    return full if full.is_dir() else BUNDLED


def files(prefix: str) -> list[Path]:
    return sorted(directory().glob(f"{prefix}*.npz"))


def load(path: Path) -> tuple[dict[str, Any], Any]:
    data = np.load(path)
    return json.loads(str(data["config"][0])), data


@lru_cache(maxsize=4)
def _weights(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {k: data[k] for k in data.files}


def llama(config: dict[str, Any], attention: str = "sdpa") -> LlamaForCausalLM:
    """A stock Llama with the fixture's weights."""
    arch = config
    settings = LlamaConfig(
        hidden_size=arch["hidden_size"],
        intermediate_size=arch["intermediate_size"],
        num_hidden_layers=arch["num_hidden_layers"],
        num_attention_heads=arch["num_attention_heads"],
        num_key_value_heads=arch["num_attention_heads"],
        vocab_size=arch["vocab_size"],
        rms_norm_eps=arch["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": arch["rope_theta"]},
        max_position_embeddings=8192,
        attn_implementation=attention,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(settings).eval()
    weights = _weights(directory() / config["weights"])
    state = {
        "model.embed_tokens.weight": weights["embed_tokens"],
        "model.norm.weight": weights["norm"],
        "lm_head.weight": weights["lm_head"],
    }
    for i in range(arch["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            state[f"{layer}self_attn.{name}.weight"] = weights[name][i]
        for name in ("gate_proj", "up_proj", "down_proj"):
            state[f"{layer}mlp.{name}.weight"] = weights[name][i]
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{layer}{name}.weight"] = weights[name][i]
    model.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in state.items()})
    return model


def method(config: dict[str, Any]) -> Method:
    """The published method of a case, with the stage budgets written in it."""
    version, layers = config["version"], tuple(config["pruning_layers"])
    if version == "v1.0":
        return SparseVLM(1.0, layers, "compact", adaptive=True, scale=config["scale"], bias=config["bias"])
    if version == "video":
        return SparseVLM(1.0, layers, "compact", adaptive=True, scale=1.0)
    counts = tuple(config["stage_budgets"])
    if version == "v1.5":
        return SparseVLM(counts, layers, "compact", always_drop=True)
    return SparseVLMPlus(counts, layers, always_drop=True, heads=14, gravity_floor=None)
