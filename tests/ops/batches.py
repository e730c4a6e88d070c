"""Random tensors, and batches of samples padded in every way.

Batches are padded on the left, on the right or in the middle, and the padding is poisoned: whatever a padded entry
holds must not reach another entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SEEDS = range(4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
POISON = {"nan": math.nan, "huge": 1e30}
LAYOUTS: dict[str, Callable[[int, int], list[int]]] = {
    "left": lambda n, width: list(range(width - n, width)),
    "right": lambda n, width: list(range(n)),
    "middle": lambda n, width: [*range(n // 2), *range(width - (n - n // 2), width)],
}

layouts = pytest.mark.parametrize("layout", LAYOUTS)
poisons = pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
seeds = pytest.mark.parametrize("seed", SEEDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def double(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def pad(samples: Sequence[Tensor], width: int, layout: str, fill: Any, axis: int = 0) -> Tensor:
    """Stack samples whose ``axis`` differs in length; ``fill`` goes where a sample has nothing."""
    rows = []
    for x in samples:
        shape = [*x.shape[:axis], width, *x.shape[axis + 1 :]]
        at = torch.tensor(LAYOUTS[layout](x.shape[axis], width), dtype=torch.long)
        rows.append(x.new_full(shape, fill).index_copy(axis, at, x))
    return torch.stack(rows)


def own(sizes: Sequence[int], width: int, layout: str) -> Tensor:
    """The mask that goes with :func:`pad`."""
    return pad([torch.ones(n, dtype=torch.bool) for n in sizes], width, layout, False)


def true(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def close(actual: Tensor, expected: Any, tolerance: float = 2e-6) -> None:
    expected = expected if isinstance(expected, np.ndarray) else double(expected)
    np.testing.assert_allclose(double(actual), expected, atol=tolerance, rtol=tolerance)


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(logits - logits.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def random_mask(seed: int, *shape: int) -> Tensor:
    mask = normal(seed, *shape) > -0.3
    mask[..., 0] = True
    return mask


def frequencies(d: int, base: float = 1e4) -> Tensor:
    return 1.0 / base ** (torch.arange(0, d, 2).float() / d)
