"""What must hold before anything is measured: the device is there, has memory, and computes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparsesight import SparseSightError, sparsify
from sparsesight.random_models import Shape, random_llava
from tests.hf.oracle import oracle_logits

from .plan import Device, Run

SMALL = "layers=6,hidden=128,ffn=256,heads=4,visual=64,text=24"
TOLERANCE = 1e-3


def free_bytes(device: Device) -> int:
    """Memory that is free on the device.

    Raises:
        SparseSightError: there is no such device.
    """
    if device.name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise SparseSightError(
                "no GPU: torch finds no CUDA device here, so there is nothing to measure; run make bench-gpu on a "
                "machine that has one, with a CUDA build of torch"
            )
        return int(torch.cuda.mem_get_info(device.name)[0])
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )


def check(device: Device, runs: list[Run]) -> int:
    """Refuse a device on which nothing would be measured or numbers would be wrong; returns its free bytes.

    Raises:
        SparseSightError: no device, too little memory for any run, or a result that is not the oracle's.
    """
    free = free_bytes(device)
    least = min(run.least_bytes(device) for run in runs)
    if least > free:
        raise SparseSightError(
            f"{device.name} has {free / 2**30:.1f} GiB of free memory, but the smallest run needs "
            f"{least / 2**30:.1f} GiB: end what else runs there, or use a larger GPU"
        )
    for fast in (False, device.fast):
        off = deviation(device, fast)
        if not off < TOLERANCE:
            raise SparseSightError(
                f"on {device.name} a sparse prefill differs by {off:.2g} from the dense one in which later layers do "
                f"not see the dropped tokens (fast={fast}, at most {TOLERANCE:g} is rounding): numbers would be wrong; "
                "please report this with the output of sparsesight doctor"
            )
    return free


@torch.no_grad()
def deviation(device: Device, fast: bool | str) -> float:
    """How far a small sparse prefill is from the oracle, in float32."""
    exact = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        model, prompt = random_llava(Shape.parse(SMALL), torch.float32, device.name)
        with sparsify(model, "sparsevlm+", retain=0.4, fast=fast) as run:
            for _ in range(3 if fast else 1):  # a recorded program runs from the second prefill on
                sparse: Any = model(**prompt).logits[0, -1]
            kept = [stage[0].to(device.name) for stage in run.kept]
            layers = run.layers
        with torch.device(device.name):
            pictures = {"pixel_values": prompt["pixel_values"]}
            dense = oracle_logits(model, prompt["input_ids"][0], kept, layers, **pictures)[-1]
        return float((sparse - dense).abs().max() / dense.abs().max())
    finally:
        torch.set_float32_matmul_precision(exact)
