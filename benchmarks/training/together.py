"""One run by several processes, as torchrun starts them: each takes other pictures, and gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

PATIENCE = timedelta(hours=2)  # the first process renders, evaluates and saves while the others wait


def join() -> None:
    """Meet the other processes, if torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)


def number() -> int:
    """Of this process; the first one is 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through, then the others: they find the files that it wrote."""
    if processes() > 1 and number():
        distributed.barrier()
    yield
    if processes() > 1 and not number():
        distributed.barrier()


def average(weights: Iterable[Any]) -> None:
    """Give the gradients of weights their mean over all processes, in place."""
    if processes() == 1:
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= processes()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))
