"""What ships of a run: the projector, and the deltas at a lower rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .lowrank import LowRank, truncated


def save(file: Path, projector: Any, deltas: dict[str, LowRank], rank: int) -> None:
    """Write bfloat16 tensors: `projector.NAME`, and `LAYER.a` [rank, in], `LAYER.b` [out, rank] with delta = b @ a."""
    tensors = {f"projector.{name}": weight for name, weight in projector.state_dict().items()}
    for name, delta in deltas.items():
        tensors[f"{name}.a"], tensors[f"{name}.b"] = truncated(delta, rank)
    fresh = file.with_suffix(".new")
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in tensors.items()}, fresh)
    fresh.replace(file)
