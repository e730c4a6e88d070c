"""`sparsesight eval` with visual tokens' similarities to the question that mean nothing.

    python benchmarks/meaningless.py noise --tasks scenes-d --limit 600 --retain 64 --methods halves,cdpruner --out n
    python benchmarks/meaningless.py direction (the same) --out runs/direction

"noise" is one number per token, unrelated to its neighbours. "direction" is a token's cosine with a random direction,
the same for all tokens of a prompt: like tokens are alike in it, so it points at some part of the picture, and at no
right one. What a method loses to the same run of `sparsesight eval` is what it owes to the question; what is left is
what a model can count on whose projector was not trained towards its word embeddings. The arguments behind the kind are
those of `sparsesight eval`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from unittest.mock import patch

import torch
from torch import Tensor

from sparsesight.commands.cli import app
from sparsesight.core.stage import StageInput
from sparsesight.ops import unit_vectors


@contextmanager
def meaningless(kind: str) -> Iterator[None]:
    """Similarities follow from a prompt's own text and picture, so from no batch and no order of prompts."""
    drawn = cached_property({"noise": _noise, "direction": _direction}[kind])
    drawn.__set_name__(StageInput, "question_similarity")
    with patch.object(StageInput, "question_similarity", drawn):
        yield


def _draws(stage: StageInput, numbers: int, draw: Callable[..., Tensor]) -> Tensor:
    """So many numbers for each sample, by its text."""
    rows = []
    for text, judges in zip(stage.text_features(), stage.text, strict=True):
        seed = zlib.crc32(text[judges].float().cpu().numpy().tobytes())
        rows.append(draw(numbers, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows).to(stage.column.device)


def _noise(stage: StageInput) -> Tensor:
    return _draws(stage, stage.column.shape[1], torch.rand).masked_fill(~stage.visual, 0)


def _direction(stage: StageInput) -> Tensor:
    features = unit_vectors(stage.features(), stage.visual)
    direction = torch.nn.functional.normalize(_draws(stage, features.shape[2], torch.randn), dim=1)
    return (features * direction[:, None]).sum(-1)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in ("noise", "direction"):
        raise SystemExit("the first argument says what similarities are: noise or direction")
    with meaningless(arguments.pop(0)):
        app(["eval", *arguments], prog_name="sparsesight")


if __name__ == "__main__":
    main(sys.argv[1:])
