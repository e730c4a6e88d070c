"""The first run of a model, where a checkpoint that loaded may still fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SparseSightError, panicked, reason


@contextmanager
def first_run(name: str) -> Iterator[None]:
    """Around the first run of a plain, dense model: what fails there is the checkpoint's fault, and one sentence.

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
