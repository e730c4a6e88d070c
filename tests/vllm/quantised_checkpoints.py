"""The bundled model as checkpoints with quantised decoder weights, in the formats that quantisation tools write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsesight import bundled

GROUP = 32  # weights of a row that share a scale, where rows are divided
KEPT = ["lm_head", "vision_tower", "multi_modal_projector"]  # in full precision, as usual
SKIPPED: dict[str, Any] = {f"-:.*{part}.*": {} for part in KEPT}  # the same in the words of GPTQ's tools
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the eight numbers in a word
FORMATS = ("compressed-tensors W8A8", "compressed-tensors W4A16", "AWQ", "GPTQ")


def write(name: str, folder: Path) -> Path:
    """The checkpoint, rounded to the nearest; :func:`rounded` has the weights that it stands for."""
    shutil.copytree(bundled.MODEL_PATH, folder, dirs_exist_ok=True)
    weights: dict[str, Tensor] = {}
    for key, weight in load_file(folder / "model.safetensors").items():
        weights |= (
            _packed(name, key.removesuffix(".weight"), weight.float()) if _is_rounded(key) else {key: weight}
        )
    save_file(
        {k: v.contiguous() for k, v in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = _config(name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rounded(name: str, model: Any) -> Any:
    """The model with the numbers in its decoder's linears that such a checkpoint has."""
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if _is_rounded(key):
                whole, scale = _divided(name, weight.float())
                weight.copy_((whole * scale[..., None]).view_as(weight))
    return model


def _is_rounded(key: str) -> bool:
    return "language_model" in key and key.endswith("_proj.weight")


def _divided(name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [out, groups, in a group] and their scales [out, groups]."""
    most, size = (127, weight.shape[1]) if "W8" in name else (7, GROUP)
    parts = weight.view(weight.shape[0], -1, size)
    scale = (parts.abs().amax(-1) / most).half().float()
    return (parts / scale[..., None]).round().clamp(-most, most), scale


def _packed(name: str, key: str, weight: Tensor) -> dict[str, Tensor]:
    out, width = weight.shape
    whole, scale = _divided(name, weight)
    number = whole.view(out, width).to(torch.int32)
    if "W8" in name:
        return {f"{key}.weight": number.to(torch.int8), f"{key}.weight_scale": scale}
    if "W4" in name:
        return {
            f"{key}.weight_packed": _words(number + 8),
            f"{key}.weight_scale": scale,
            f"{key}.weight_shape": torch.tensor([out, width]),
        }
    zero = torch.full((width // GROUP, out), 8, dtype=torch.int32)
    if name == "AWQ":
        packed = {"qweight": _words(number.t() + 8, AWQ_ORDER), "qzeros": _words(zero, AWQ_ORDER)}
    else:  # zeros are written less one
        packed = {
            "qweight": _words(number + 8).t(),
            "qzeros": _words(zero - 1),
            "g_idx": torch.arange(width, dtype=torch.int32) // GROUP,
        }
    return {f"{key}.{part}": value for part, value in {**packed, "scales": scale.t().half()}.items()}


def _words(number: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Eight numbers of four bits [n, 8 m] in a word, int32 [n, m]."""
    words = torch.zeros(number.shape[0], number.shape[1] // 8, dtype=torch.int32)
    for place, column in enumerate(order):
        words |= number[:, column::8] << 4 * place
    return words


def _config(name: str) -> dict[str, Any]:
    four = {"bits": 4, "group_size": GROUP}
    if name == "AWQ":
        return {
            **four,
            "quant_method": "awq",
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": KEPT,
        }
    if name == "GPTQ":
        return {
            **four,
            "quant_method": "gptq",
            "desc_act": False,
            "sym": True,
            "lm_head": False,
            "dynamic": SKIPPED,
        }
    symmetric = {"type": "int", "symmetric": True}
    eight = "W8" in name
    by_group = {"num_bits": 4, "strategy": "group", "group_size": GROUP}
    by_token = {**symmetric, "num_bits": 8, "strategy": "token", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": {**symmetric, **({"num_bits": 8, "strategy": "channel"} if eight else by_group)},
        "input_activations": by_token if eight else None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if eight else "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", *(f"re:.*{part}.*" for part in KEPT[1:])],
        "config_groups": {"group_0": group},
    }
