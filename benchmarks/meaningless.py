"""`sparsesight eval` with noise in place of visual tokens' similarities to the question.

    python benchmarks/meaningless.py --tasks scenes-c --limit 600 --retain 64 --methods halves,cdpruner --out runs/noise

What a method loses to the same run of `sparsesight eval` is what it owes to the question; what is left is what a model
can count on whose projector was not trained towards its word embeddings. The arguments are those of `sparsesight eval`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from unittest.mock import patch

import torch
from torch import Tensor

from sparsesight.commands.cli import app
from sparsesight.core.stage import StageInput


@contextmanager
def noise() -> Iterator[None]:
    """Similarities are uniform. They follow from a prompt's text alone, so from no batch and no order of prompts."""
    drawn = cached_property(_drawn)
    drawn.__set_name__(StageInput, "question_similarity")
    with patch.object(StageInput, "question_similarity", drawn):
        yield


def _drawn(stage: StageInput) -> Tensor:
    width, rows = stage.column.shape[1], []
    for text, judges in zip(stage.text_features(), stage.text, strict=True):
        seed = zlib.crc32(text[judges].float().cpu().numpy().tobytes())
        rows.append(torch.rand(width, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows).to(stage.column.device).masked_fill(~stage.visual, 0)


def main(arguments: list[str]) -> None:
    with noise():
        app(["eval", *arguments], prog_name="sparsesight")


if __name__ == "__main__":
    main(sys.argv[1:])
