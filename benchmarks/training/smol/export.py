"""What ships of a run: the projector, the tower if it was trained, and the deltas, of a lower rank than in training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparsesight.bundled import smol
from sparsesight.bundled.smol.assemble import factor, hidden_units, weights_digest
from sparsesight.errors import SparseSightError
from sparsesight.files import replace_file, sha256

from .eyes import Eyes, widened
from .lowrank import LowRank, truncated


def release(base: Path, delta: Path, model: Path) -> None:
    """Put what was trained into the package: the deltas, and the sums that base and assembled weights must have."""
    replace_file(smol.DELTA, delta.read_bytes())
    sums = {"base": sha256(base), "weights": weights_digest(model)}
    replace_file(smol.RELEASED, json.dumps(sums, indent=2) + "\n")


def save(file: Path, eyes: Eyes, deltas: dict[str, LowRank], rank: int, own_tower: bool = False) -> None:
    """Write `LAYER.a` [rank, in], `LAYER.b` [out, rank] of deltas b @ a in 8 bits, and `projector.NAME` in bfloat16.

    With a tower that is not the bundled model's, also `tower.NAME`.
    """
    parts = {"projector": eyes.projector, **({"tower": eyes.tower} if own_tower else {})}
    tensors = {
        f"{of}.{name}": weight for of, part in parts.items() for name, weight in part.state_dict().items()
    }
    told = {name: weight.to(torch.bfloat16) for name, weight in tensors.items()}
    for name, delta in deltas.items():
        for part, across, weight in zip("ab", (1, 0), truncated(delta, rank), strict=True):
            told[f"{name}.{part}"], told[f"{name}.{part}.scale"] = in_8_bits(weight, across)
    fresh = file.with_suffix(".new")
    save_file({name: weight.contiguous() for name, weight in told.items()}, fresh)
    fresh.replace(file)


def in_8_bits(weight: torch.Tensor, across: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A factor as int8 and a bfloat16 scale for each rank; `across` is the dimension that a rank lies along."""
    scale = (weight.abs().amax(across) / 127).clamp(min=1e-12).to(torch.bfloat16)
    return (weight / scale.float().unsqueeze(across)).round().clamp(-127, 127).to(torch.int8), scale


def rank_of(file: Path) -> int:
    """The highest rank of the deltas that `save` wrote.

    Raises:
        SparseSightError: there are none in the file.
    """
    if not file.is_file():
        raise SparseSightError(f"start={file} is no file: name the delta.safetensors of a run or a release")
    with safe_open(file, "pt") as told:
        ranks = [told.get_slice(name).get_shape()[0] for name in told.keys() if name.endswith(".a")]  # noqa: SIM118
    if not ranks:
        raise SparseSightError(
            f"start={file} holds no deltas: name the delta.safetensors of a run or a release"
        )
    return max(ranks)


def load(file: Path, eyes: Eyes, deltas: dict[str, LowRank]) -> bool:
    """What `save` wrote, put into eyes and into deltas of at least its rank; whether it has a tower of its own."""
    told = load_file(file)
    own_tower = any(name.startswith("tower.") for name in told)
    if own_tower:  # its layers may have more hidden units
        eyes.tower = widened(eyes.tower, hidden_units(told)).requires_grad_(False)
    for of, part in {"projector": eyes.projector, **({"tower": eyes.tower} if own_tower else {})}.items():
        part.load_state_dict({name: told[f"{of}.{name}"].float() for name in part.state_dict()})
    for name, delta in deltas.items():
        delta.start(factor(told, f"{name}.a", 1).float(), factor(told, f"{name}.b", 0).float())
        delta.merge()
    return own_tower
