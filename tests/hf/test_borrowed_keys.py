"""Decoders that go on with their last rows where later layers borrow keys (Gemma 4)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import sparsify
from tests.hf.families import gemma4_like
from tests.hf.families.base import SAMPLES


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> Any:
    return gemma4_like.FAMILIES[0].build(request.param)


@pytest.mark.parametrize("rows", [1, 3, 12, 40])
@pytest.mark.parametrize("which", [(0,), (0, 1, 2, 3)])
def test_the_last_rows_are_those_of_all(model: Any, which: tuple[int, ...], rows: int) -> None:
    """As many as asked for, be they all text, or more than the text that follows the picture."""
    prompt = gemma4_like.FAMILIES[0].prompts([SAMPLES[i] for i in which])
    with sparsify(model, retain=0.4) as run, torch.no_grad():
        whole = model(**prompt).logits
        last = model(**prompt, logits_to_keep=rows).logits
        assert len(run.kept) == len(run.layers)
    assert last.shape == whole[:, -rows:].shape
    torch.testing.assert_close(last, whole[:, -rows:], atol=1e-4, rtol=1e-4)
