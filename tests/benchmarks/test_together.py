"""A run by two processes: they find what the first one wrote, and take the same steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from . import small_language_model
from .conftest import script
from .test_train_smol import plan as small_plan


def meet(number: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=number, world_size=2)
    torch.set_num_threads(1)


def exchange(number: int, folder: Path) -> None:
    """What one of two processes does: leave a note, read the other's, average gradients."""
    meet(number, folder)
    together = script("training.together")
    with together.first_alone():
        found = (folder / "note").exists()
        (folder / "note").touch()
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in ((2, 3), (4,), (1,))]
    for weight in weights[:2]:
        weight.grad = torch.full_like(weight, 1.0 + 2 * number)
    together.average(weights)
    told = [weight.grad is not None and weight.grad.unique().tolist() for weight in weights]
    (folder / f"{number}.json").write_text(
        json.dumps([together.number(), together.processes(), found, told]), encoding="utf-8"
    )


def test_two_processes_average_and_wait(tmp_path: Path) -> None:
    multiprocessing.spawn(exchange, (tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"{number}.json").read_text("utf-8")) for number in (0, 1))
    assert first == [0, 2, False, [[2.0], [2.0], False]]
    assert second == [1, 2, True, [[2.0], [2.0], False]]


def test_one_process_is_left_alone(tmp_path: Path) -> None:
    together = script("training.together")
    together.join()
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    with together.first_alone():
        together.average([weight])
    assert (together.number(), together.processes(), weight.grad.tolist()) == (0, 1, [1.0, 1.0])


def train(number: int, folder: Path) -> None:
    """One of two processes that train eyes at a size that takes seconds."""
    meet(number, folder)
    script("train_smol")
    course: Any = script("training.smol.course")
    stage = course.Stage("whole", 3, 1, 4, 576, 1e-2, 0.5, replay_every=2)
    plan = replace(small_plan(course), stages=(stage,))
    base, run = course.Base(**small_language_model.parts()), course.Run(folder / "run", every=2)
    training = course.Training(plan, run, base, workers=1, seed=0)
    training.all()
    torch.save(training.parts.state_dict(), folder / f"{number}.pt")
    if number == 0:
        eyed = replace(plan, eyes_steps=1)
        training.plan, training.eyes_ready = eyed, False
        with pytest.raises(course.SparseSightError, match="--only eyes"):
            training.train_eyes()


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    multiprocessing.spawn(train, (tmp_path,), nprocs=2)
    one, two = (torch.load(tmp_path / f"{number}.pt") for number in (0, 1))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["stage"] for line in lines] == [
        "projector",
        "projector",
        "whole",
        "whole",
    ]  # the fit, by both
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
