"""Icons, lines of text and the canvas: whole numbers, and what is recorded is what is shown."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sparsesight.scenes.drawing import COVERED, SIDE, Rng
from sparsesight.scenes.mixed import canvas as module
from sparsesight.scenes.mixed.canvas import Canvas, paper
from sparsesight.scenes.mixed.dataset import PICTURES, SPLITS, picture_of, questions
from sparsesight.scenes.mixed.fonts import HELD_OUT_FACES, KNOWN_FACES, line
from sparsesight.scenes.mixed.icons import icon
from sparsesight.scenes.mixed.picture import Picture
from sparsesight.scenes.mixed.things import THINGS
from sparsesight.scenes.objects import COLORS, GRID, PATCH

pytestmark = pytest.mark.usefixtures("drawable")

# Of the first test picture of each kind: the pixels, and the first questions
GOLDEN = {
    "icons": ("8f2002b066877bfe", "666feb54f16910e0"),
    "signs": ("4b10365fcc00b2e3", "a7440d09423ef7ff"),
    "charts": ("de149e9ce1ad0176", "976b2e388e5484eb"),
    "tables": ("85726b4bb2cd9f58", "b03681da6e52d98b"),
    "pairs": ("18edaa9b63266511", "606cb8973e7ea4ad"),
}


def digests(picture: Picture) -> tuple[str, str]:
    pixels = hashlib.sha256(b"".join(image.tobytes() for image in picture.images)).hexdigest()
    asked = questions(picture, SPLITS["test"].pool, 32)
    return pixels[:16], hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


@pytest.mark.parametrize("kind", [*PICTURES])
def test_a_seed_gives_the_same_picture_everywhere(kind: str, pictures: list[Picture]) -> None:
    picture = next(one for one in pictures if one.kind == kind)
    assert digests(picture) == GOLDEN[kind], (
        "a seed gives another picture or other questions than before: if that is meant, raise dataset.VERSION and "
        "renew GOLDEN; if not, this platform, numpy or Pillow draws otherwise"
    )
    again = picture_of(SPLITS["test"], [*PICTURES].index(kind))
    assert digests(again) == digests(picture) and again.elements == picture.elements


def test_nothing_is_painted_with_fractions(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = set()

    def watch(colors: np.ndarray, left: int, top: int, color: np.ndarray, coverage: np.ndarray) -> None:
        kinds.update(array.dtype.kind for array in (colors, np.asarray(color), coverage))

    monkeypatch.setattr(module, "blend", watch)
    for index in range(len(PICTURES)):
        picture_of(SPLITS["val"], index)
    assert kinds == {"i"}


def test_every_icon_is_there_and_fills_its_square() -> None:
    for thing in THINGS:
        colors, coverage = icon(thing.code, 24)
        assert colors.shape == (24, 24, 3) and coverage.shape == (24, 24)
        assert colors.min() >= 0 and colors.max() <= 255 and coverage.max() == COVERED
        assert (2 * coverage >= COVERED).mean() > 0.1, thing.name


def test_icons_keep_their_area_and_colors_at_every_size() -> None:
    whole, stored = icon("1f34e", 72)
    for extent in (34, 50, 71):
        colors, coverage = icon("1f34e", extent)
        assert coverage.mean() == pytest.approx(stored.mean(), rel=0.03)
        inked, all_inked = coverage == COVERED, stored == COVERED
        assert np.abs(colors[inked].mean(0) - whole[all_inked].mean(0)).max() < 6


@pytest.mark.parametrize("face", [*KNOWN_FACES, *HELD_OUT_FACES], ids=lambda face: face.file)
def test_fonts_have_all_that_is_written(face: object) -> None:
    alone = {text: line(text, face, 20).coverage for text in "abcdefghijklmnopqrstuvwxyz0123456789"}  # type: ignore[arg-type]
    assert len({array.tobytes() for array in alone.values()}) == 36
    assert all(array.max() == COVERED for array in alone.values())
    assert alone["w"].shape[1] >= alone["i"].shape[1]


def test_text_has_the_size_that_was_asked_for() -> None:
    small, large = (line("Harbor", KNOWN_FACES[0], size) for size in (16, 32))
    assert large.coverage.shape[0] == pytest.approx(2 * small.coverage.shape[0], abs=2)
    assert large.coverage.shape[1] == pytest.approx(2 * small.coverage.shape[1], abs=3)
    assert line("pg", KNOWN_FACES[0], 20).rise < line("pg", KNOWN_FACES[0], 20).coverage.shape[0]
    # The hole of an o is a hole
    ring = line("o", KNOWN_FACES[0], 40).coverage
    assert ring[ring.shape[0] // 2, ring.shape[1] // 2] == 0


def test_a_stroke_is_as_wide_as_it_was_asked_for() -> None:
    canvas = Canvas(np.zeros((SIDE, SIDE, 3), dtype=np.int64))
    canvas.stroke((50, 100), (250, 100), 4, (160, 160, 160))
    assert (canvas.colors[:, 150, 0] == 160).sum() == 4 and canvas.colors[90, 150, 0] == 0
    assert paper(Rng(0)).shape == (SIDE, SIDE, 3)


def test_owners_lie_within_their_boxes(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert picture.owner.shape == (len(picture.images), GRID, GRID)
        for index, element in enumerate(picture.elements):
            image, rows, columns = np.nonzero(picture.owner == index)
            assert {*image.tolist()} == {element.picture}, (picture.seed, element)
            left, top, right, bottom = element.box
            above = 2 * PATCH if element.kind == "bar" else 0  # its value may stand above it
            assert (top - above) // PATCH <= rows.min() and rows.max() <= (bottom - 1) // PATCH
            assert left // PATCH - 1 <= columns.min() and columns.max() <= (right - 1) // PATCH + 1


def test_what_is_recorded_is_shown(pictures: list[Picture]) -> None:
    """Within the box of an element its color is there, or the ink of its text."""
    for picture in pictures:
        for element in picture.elements:
            left, top, right, bottom = element.box
            assert min(element.box) >= 0 and max(element.box) <= SIDE
            pixels = np.asarray(picture.images[element.picture]).astype(int)[top:bottom, left:right]
            if element.color:
                near = np.abs(pixels - np.array(COLORS[element.color])).max(axis=-1) <= 14 + 6
                assert near.mean() > 0.1, (picture.seed, element)
            elif element.text:
                assert 0.05 < (pixels.max(axis=-1) < 120).mean() < 0.8, (picture.seed, element)
            else:
                assert pixels.std(axis=(0, 1)).max() > 8, (picture.seed, element)


def test_two_pictures_of_a_pair_show_different_things(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert len(picture.images) == (2 if picture.kind == "pairs" else 1)
        assert all(image.size == (SIDE, SIDE) and image.mode == "RGB" for image in picture.images)
