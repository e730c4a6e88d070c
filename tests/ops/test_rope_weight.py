"""The weight of a rotary embedding against transformers' rotations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from sparsesight import ops

from .batches import LAYOUTS, close, frequencies, layouts, pad, seeds


def rotated(rotate: Any, angle: Tensor, d: int) -> Tensor:
    """All-ones head vectors [b, n, d] rotated by the function a model uses; ``angle`` is [b, n, f]."""
    both = torch.cat((angle, angle), -1).double()
    ones = torch.ones(angle.shape[0], 1, angle.shape[1], d, dtype=torch.float64)
    return rotate(ones, ones, both.cos(), both.sin())[0][:, 0]


@seeds
@pytest.mark.parametrize("d", [8, 64, 128])
@pytest.mark.parametrize("rotary", [1.0, 0.5])
def test_rotary_gravity_is_what_rotating_ones_gives(seed: int, d: int, rotary: float) -> None:
    """For both pair layouts, and where only a part of the head is rotated."""
    rng = np.random.default_rng(seed)
    rows, keys = (
        torch.from_numpy(rng.integers(0, 900, (2, 6))),
        torch.from_numpy(rng.integers(0, 900, (2, 11))),
    )
    inv_freq = frequencies(int(d * rotary))
    actual = ops.rope_weight(rows, keys, inv_freq, d)
    for rotate in (rotate_interleaved, rotate_halves) if rotary == 1 else (rotate_interleaved,):
        a, b = (rotated(rotate, x[..., None] * inv_freq.double(), d) for x in (rows, keys))
        close(actual, a @ b.transpose(1, 2) / math.sqrt(d), 2e-4)


@seeds
def test_rotary_gravity_of_several_axes(seed: int) -> None:
    """mrope: each frequency reads the time, the height or the width of a position."""
    rng = np.random.default_rng(seed)
    d, inv_freq, axis = 32, frequencies(32), torch.tensor([0] * 4 + [1] * 6 + [2] * 6)
    rows, keys = (
        torch.from_numpy(rng.integers(0, 60, (3, 2, 5))),
        torch.from_numpy(rng.integers(0, 60, (3, 2, 8))),
    )
    parts = []
    for x in (rows, keys):
        angle = torch.stack([x[int(a)] * f.double() for a, f in zip(axis, inv_freq, strict=True)], -1)
        parts.append(rotated(rotate_halves, angle, d))
    actual = ops.rope_weight(rows, keys, inv_freq, d, axis)
    close(actual, parts[0] @ parts[1].transpose(1, 2) / math.sqrt(d), 1e-5)
    text = rows[:1].expand(3, -1, -1)  # text has the same position on every axis
    same = ops.rope_weight(text, text, inv_freq, d, axis)
    close(same, ops.rope_weight(rows[0], rows[0], inv_freq, d), 1e-6)


def test_rotary_gravity_crosses_zero_at_1707() -> None:
    distance = torch.arange(1750)[None]
    weight = ops.rope_weight(torch.zeros(1, 1, dtype=torch.long), distance, frequencies(128), 128)[0, 0]
    assert (weight[:1707] > 0).all() and weight[1707] < 0
    close(weight[[0, 1, 600]], np.array([math.sqrt(128), 10.98, 2.35]), 5e-3)


def test_rotary_gravity_knows_distances_only() -> None:
    """Far into a long context the same distances weigh the same, to the last digit."""
    rows, keys = torch.tensor([[40, 55, 61]]), torch.arange(40)[None]
    near = ops.rope_weight(rows, keys, frequencies(128), 128)
    far = ops.rope_weight(rows + 1_000_000, keys + 1_000_000, frequencies(128), 128)
    assert torch.equal(near, far)


@layouts
def test_rotary_gravity_in_a_batch(layout: str) -> None:
    """Rows are padded on the left, as compaction leaves them; keys anywhere."""
    samples = [(torch.arange(500, 500 + r), torch.arange(k)) for r, k in ((3, 20), (6, 31), (1, 7))]
    weight = ops.rope_weight(
        pad([x for x, _ in samples], 7, "left", 10**9),
        pad([y for _, y in samples], 33, layout, 10**9),
        frequencies(64),
        64,
    )
    for i, (rows, keys) in enumerate(samples):
        alone = ops.rope_weight(rows[None], keys[None], frequencies(64), 64)[0]
        at = LAYOUTS[layout](len(keys), 33)
        close(weight[i][7 - len(rows) :][:, at], alone, 1e-6)
