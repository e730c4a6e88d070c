"""Stencils and backgrounds: whole numbers, the right areas, and nothing that could be taken for another."""

from itertools import combinations

import numpy as np
import pytest

from sparsesight.scenes.drawing import (
    COVERED,
    LETTERS,
    SIDE,
    Rng,
    background,
    blend,
    letter_stencil,
    stencil,
)

# The share of the square that each shape covers, from its geometry
AREAS = {
    "circle": np.pi / 4,
    "square": 0.9**2,
    "triangle": 0.93 / 2,
    "star": 5 * 0.52 * 0.24 * np.sin(np.pi / 5),
    "cross": 2 * 0.36 - 0.36**2,
    "ring": np.pi / 4 - np.pi * 0.24**2,
    "diamond": 0.4,
    "heart": 180 * np.pi / (30 * 32),  # the known area of the curve, 180 pi, on a scale of 32 by 30
    "card": 1 - (4 - np.pi) * 0.18**2,
}
EXTENTS = (24, 30, 42, 48, 62, 67)


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("extent", EXTENTS)
def test_a_stencil_covers_what_its_shape_covers(shape: str, extent: int) -> None:
    coverage = stencil(shape, extent)
    assert coverage.shape == (extent, extent)
    assert coverage.dtype == np.int32
    assert coverage.min() == 0 and coverage.max() == COVERED
    assert coverage.mean() / COVERED == pytest.approx(AREAS[shape], abs=0.015)


@pytest.mark.parametrize("shape", AREAS)
def test_stencils_are_symmetric_from_left_to_right(shape: str) -> None:
    coverage = stencil(shape, 64)
    assert np.abs(coverage - coverage[:, ::-1]).sum() <= 0.01 * coverage.sum()


@pytest.mark.parametrize("extent", EXTENTS)
def test_no_shape_can_be_taken_for_another(extent: int) -> None:
    for one, other in combinations(AREAS, 2):
        apart = np.abs(stencil(one, extent) - stencil(other, extent)).mean() / COVERED
        assert apart > (0.04 if {one, other} == {"card", "square"} else 0.1), (one, other, apart)


def test_a_ring_is_hollow_and_a_circle_is_not() -> None:
    assert stencil("ring", 42)[21, 21] == 0
    assert stencil("circle", 42)[21, 21] == COVERED


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'blob'"):
        stencil("blob", 40)


@pytest.mark.parametrize("extent", [18, 31, 50])  # what a card of 24, 42 or 67 pixels carries
def test_letters_look_different(extent: int) -> None:
    inks = {letter: letter_stencil(letter, extent) for letter in LETTERS}
    for letter, ink in inks.items():
        assert ink.shape == (extent, extent) and ink.dtype == np.int32
        assert ink.max() == COVERED, f"{letter} is nowhere wholly black"
        rim = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert rim.max() < COVERED, f"{letter} is cut off"
    for one, other in combinations(inks, 2):
        larger = max(inks[one].sum(), inks[other].sum())
        assert np.abs(inks[one] - inks[other]).sum() > 0.15 * larger, (one, other)


def test_backgrounds_are_whole_numbers_dull_and_textured() -> None:
    for seed in range(20):
        ground = background(Rng(seed))
        assert ground.shape == (SIDE, SIDE, 3)
        assert ground.dtype.kind == "i"
        assert (
            ground.min() >= 15 and ground.max() <= 195
        )  # neither the white of a card nor the black of its ink
        assert ground[::8, ::8].std() > 8


def test_backgrounds_follow_from_the_random_numbers_alone() -> None:
    assert np.array_equal(background(Rng(5)), background(Rng(5)))
    assert not np.array_equal(background(Rng(5)), background(Rng(6)))


def test_blending_mixes_in_whole_numbers_and_in_place() -> None:
    canvas = np.full((4, 5, 3), 100)
    coverage = np.array([[0, COVERED // 4], [COVERED // 2, COVERED]])
    blend(canvas, 2, 1, np.array([200, 100, 0]), coverage)
    assert canvas.dtype.kind == "i"
    assert canvas[1:3, 2:4].tolist() == [[[100, 100, 100], [125, 100, 75]], [[150, 100, 50], [200, 100, 0]]]
    canvas[1:3, 2:4] = 100
    assert (canvas == 100).all(), "painted outside its region"
