"""What ships of a run: the projector, the tower if it was trained, and the deltas, of a lower rank than in training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sparsesight.bundled import smol
from sparsesight.bundled.smol.assemble import weights_digest
from sparsesight.files import replace_file, sha256

from .eyes import Eyes
from .lowrank import LowRank, truncated


def release(base: Path, delta: Path, model: Path) -> None:
    """Put what was trained into the package: the deltas, and the sums that base and assembled weights must have."""
    replace_file(smol.DELTA, delta.read_bytes())
    sums = {"base": sha256(base), "weights": weights_digest(model)}
    replace_file(smol.RELEASED, json.dumps(sums, indent=2) + "\n")


def save(file: Path, eyes: Eyes, deltas: dict[str, LowRank], rank: int, own_tower: bool = False) -> None:
    """Write bfloat16 tensors: `projector.NAME`, and `LAYER.a` [rank, in], `LAYER.b` [out, rank] with delta = b @ a.

    With a tower that is not the bundled model's, also `tower.NAME`.
    """
    parts = {"projector": eyes.projector, **({"tower": eyes.tower} if own_tower else {})}
    tensors = {
        f"{of}.{name}": weight for of, part in parts.items() for name, weight in part.state_dict().items()
    }
    for name, delta in deltas.items():
        tensors[f"{name}.a"], tensors[f"{name}.b"] = truncated(delta, rank)
    fresh = file.with_suffix(".new")
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in tensors.items()}, fresh)
    fresh.replace(file)


def load(file: Path, eyes: Eyes, deltas: dict[str, LowRank]) -> bool:
    """What `save` wrote, put into eyes and into deltas of at least its rank; whether it has a tower of its own."""
    told = load_file(file)
    own_tower = any(name.startswith("tower.") for name in told)
    for of, part in {"projector": eyes.projector, **({"tower": eyes.tower} if own_tower else {})}.items():
        part.load_state_dict({name: told[f"{of}.{name}"].float() for name in part.state_dict()})
    for name, delta in deltas.items():
        delta.start(told[f"{name}.a"].float(), told[f"{name}.b"].float())
        delta.merge()
    return own_tower
