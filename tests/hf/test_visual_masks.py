"""Masks of visual tokens that do not fit, and words that are not known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import (
    SparseSightError,
    UnsupportedModelError,
    visual_tokens,
)
from sparsesight import sparsify as install
from tests.hf.spliced_llama import spliced_llama
from tests.hf.test_context import sparsify, visual


@pytest.mark.parametrize(
    ("mask", "frames", "message"),
    [
        (visual().long(), None, "expected a boolean tensor"),
        ([True, False], None, "expected a boolean tensor .* got list"),
        (visual()[None], None, r"got torch.bool \[1, 1, 30\]"),
        (visual(), torch.zeros(1, 29, dtype=torch.long), r"frames: expected whole numbers \[1, 30\]"),
        (visual(), torch.zeros(1, 30), "frames: expected whole numbers .* got torch.float32"),
        (None, torch.zeros(1, 30, dtype=torch.long), "frames: given without"),
        (visual(31), None, r"shape \[1, 31\], but this call brings 30 tokens for a batch of 4"),
        (visual(b=3), None, r"shape \[3, 30\], but this call brings 30 tokens for a batch of 4"),
    ],
)
def test_masks_that_do_not_fit(mask: Any, frames: Any, message: str) -> None:
    model = spliced_llama()
    with sparsify(model, retain=0.4) as run, torch.no_grad():
        with pytest.raises(SparseSightError, match=message), visual_tokens(model, mask, frames):
            model(inputs_embeds=torch.randn(4, 30, 32))
        with visual_tokens(model, visual()):  # nothing is left behind
            model(inputs_embeds=torch.randn(4, 30, 32))
        assert run.kept


def test_words_and_models_that_are_not_known() -> None:
    model = spliced_llama()
    with pytest.raises(UnsupportedModelError, match="visual_mask='per call'"):
        install(model)
    with pytest.raises(SparseSightError, match="the only string that is accepted is 'per call'"):
        install(model, visual_mask="percall")  # type: ignore[arg-type]
    with visual_tokens(model, visual()):  # not sparsified: nothing happens
        model(inputs_embeds=torch.randn(1, 9, 32))
