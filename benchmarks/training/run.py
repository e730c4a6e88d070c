"""A training run in a folder: its log and its checkpoints, so that a run that was stopped goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import together
from .optim import Optimizer


class Run:
    """One folder with `log.jsonl`, a line per evaluation, and a checkpoint per stage."""

    def __init__(self, folder: Path, every: int) -> None:
        """`every` so many steps a stage is evaluated and saved."""
        self.folder, self.every = folder, every
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self, stage: str) -> bool:
        return (self.folder / f"{stage}.done").exists()

    def train(
        self,
        stage: str,
        modules: nn.Module,
        optimizer: Optimizer,
        loss: Callable[[int], torch.Tensor],
        evaluate: Callable[[], dict[str, Any]],
    ) -> None:
        """All the steps of a stage, from its checkpoint if there is one; `loss(step)` is one batch's loss."""
        checkpoint = self.folder / f"{stage}.pt"
        first, seconds, processor, smooth = 0, 0.0, 0.0, 0.0
        if checkpoint.exists():
            saved = torch.load(checkpoint, map_location="cpu")
            modules.load_state_dict(saved["modules"])
            if self.finished(stage):
                return
            optimizer.load_state_dict(saved["optimizer"])
            first, seconds, processor, smooth = (saved[k] for k in ("step", "seconds", "processor", "smooth"))
        clock, cpu = time.perf_counter() - seconds, time.process_time() - processor
        for step in range(first, optimizer.steps):
            value = loss(step)
            value.backward()
            optimizer.step(step)
            smooth += (value.item() - smooth) * max(0.05, 1 / (step + 1))
            last = step == optimizer.steps - 1
            if not together.number() and (step % self.every == 0 or last):
                with torch.no_grad():
                    scores = evaluate()
                seconds, processor = time.perf_counter() - clock, time.process_time() - cpu
                line = {
                    "stage": stage,
                    "step": step,
                    "seconds": round(seconds, 1),
                    "processor": round(processor, 1),
                }
                self.log({**line, "loss": round(smooth, 4), **scores})
                self._save(checkpoint, modules, optimizer, step + 1, seconds, processor, smooth)
        with together.first_alone():
            (self.folder / f"{stage}.done").touch()

    def log(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _save(
        self,
        path: Path,
        modules: nn.Module,
        optimizer: Optimizer,
        step: int,
        seconds: float,
        processor: float,
        smooth: float,
    ) -> None:
        state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        state |= {"seconds": seconds, "processor": processor, "smooth": smooth}
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, path)  # a run stopped while it saves keeps its older checkpoint
