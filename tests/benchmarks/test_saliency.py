"""Saliency: published colour values, a blur that keeps what is even, and the odd patch found."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.probing.saliency import blur, lab, patch_saliency
from sparsesight.scenes.scenes import GRID, PATCH, SIDE


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((2, 2, 2), (0.55, 0, 0)),  # on the line below the cube root
    ],
)
def test_lab_of_known_colors(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert lab(np.array(rgb, dtype=np.uint8)) == pytest.approx(expected, abs=0.05)


def test_blur() -> None:
    assert np.allclose(blur(np.full((8, 9, 3), 7.0)), 7)
    point = np.zeros((9, 9, 1))
    point[4, 4] = 256
    spread = blur(point)[2:7, 2:7, 0]
    assert np.array_equal(spread, np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]))


def test_the_odd_patch_is_the_most_salient() -> None:
    picture = np.full((SIDE, SIDE, 3), 120, dtype=np.uint8)
    row, column = 5, 17
    picture[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = (220, 30, 30)
    scores = patch_saliency(Image.fromarray(picture))
    assert scores.shape == (GRID * GRID,) and scores.dtype == np.float32
    assert scores.argmax() == row * GRID + column
    assert scores[0] < 0.05 * scores.max()
