"""Positions that a caller gives: what the dense model takes is taken, anything else is named."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, sparsify
from tests.hf.families import ALL
from tests.hf.families.base import SAMPLES
from tests.in_turn import in_turn


@lru_cache(maxsize=1)
def case(name: str) -> tuple[Any, Any]:
    family = next(family for family in ALL if family.name == name)
    return family.build("sdpa"), family


def shapes(batch: int, length: int) -> list[tuple[int, ...]]:
    """Of all combinations of axes, samples and tokens, as they should be and not."""
    samples, tokens = (1, batch, batch + 1), (length, length - 1, length + 1)
    plain = [(b, n) for b in samples for n in tokens]
    return [*plain, *((axes, *shape) for axes in (1, 2, 3, 4) for shape in plain)]


ASKED = [("llava", "sparsevlm+"), ("llava", "divprune"), ("qwen2_5_vl", "sparsevlm"), ("glm4v", "uniform")]


@pytest.mark.parametrize(("asked", "batch"), in_turn(ASKED, [1, 2]), ids=str)
def test_positions_that_do_not_fit_are_named(asked: tuple[str, str], batch: int) -> None:
    name, method = asked
    model, family = case(name)
    prompt = family.prompts(SAMPLES[:batch])
    worked = 0
    for shape in shapes(*prompt["input_ids"].shape):
        given = {**prompt, "position_ids": torch.arange(shape[-1]).expand(shape)}
        try:
            with torch.no_grad():
                wanted = model(**given).logits.shape
        except (RuntimeError, ValueError):
            wanted = None
        with sparsify(model, method, retain=0.4) as run, torch.no_grad():
            if wanted is None or (name == "llava" and len(shape) == 3):
                with pytest.raises(SparseSightError, match="position_ids: ") as error:
                    model(**given)
                assert str(list(shape)) in str(error.value)
            else:
                assert model(**given).logits.shape == wanted and run.kept
                worked += 1
    assert worked
