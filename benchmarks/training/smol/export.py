"""What ships of a run: the projector, and the deltas, of a lower rank than in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsesight.bundled import smol
from sparsesight.bundled.smol.assemble import weights_digest
from sparsesight.files import replace_file, sha256

from .lowrank import LowRank, truncated


def release(base: Path, delta: Path, model: Path) -> None:
    """Put what was trained into the package: the deltas, and the sums that base and assembled weights must have."""
    replace_file(smol.DELTA, delta.read_bytes())
    sums = {"base": sha256(base), "weights": weights_digest(model)}
    replace_file(smol.RELEASED, json.dumps(sums, indent=2) + "\n")


def save(file: Path, projector: Any, deltas: dict[str, LowRank], rank: int) -> None:
    """Write bfloat16 tensors: `projector.NAME`, and `LAYER.a` [rank, in], `LAYER.b` [out, rank] with delta = b @ a."""
    tensors = {f"projector.{name}": weight for name, weight in projector.state_dict().items()}
    for name, delta in deltas.items():
        tensors[f"{name}.a"], tensors[f"{name}.b"] = truncated(delta, rank)
    fresh = file.with_suffix(".new")
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in tensors.items()}, fresh)
    fresh.replace(file)
