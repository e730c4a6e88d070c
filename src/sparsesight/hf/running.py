"""Errors of running models, in one sentence: too little memory, and a checkpoint that loaded but cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import SparseSightError, panicked, reason


@contextmanager
def first_run(name: str) -> Iterator[None]:
    """A context for the first run of a dense model: an error there is the checkpoint's fault, told in one sentence.

    Args:
        name: of the model, for the message.

    Raises:
        SparseSightError: in place of what transformers or torch raise, other than too little memory.
    """
    import torch

    try:
        yield
    except (SparseSightError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or panicked(error)):
            raise
        raise SparseSightError(
            f"model {name!r} loads but cannot answer ({type(error).__name__}: {reason(error)}): its config, processor "
            "and weights do not fit together, or transformers cannot run it here"
        ) from error


@contextmanager
def out_of_memory(device: Any) -> Iterator[None]:
    """Report too little device memory in one sentence.

    Raises:
        SparseSightError: in place of torch's error.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise SparseSightError(
            f"there is not enough memory on {device}: try --dtype bfloat16, --device cpu or a smaller model"
        ) from None
