"""Panels: what a pixel becomes, and where the marks are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sparsesight import SparseSightError, viz
from sparsesight.viz.colours import CROPPED_CONTRAST, KEPT, MERGED, heat
from sparsesight.viz.draw import scored, signed
from tests.viz.made_records import look, smooth, stage

SIZE = 320


def panel(of: viz.Look, number: int | None = 0, size: int = SIZE) -> np.ndarray:
    return np.asarray(viz.overlay(of, number, size=size, caption=False)).astype(int)


def cell(pixels: np.ndarray, token: int, side: int = 4, margin: int = 4) -> np.ndarray:
    step = SIZE // side
    row, column = divmod(token, side)
    return pixels[
        row * step + margin : (row + 1) * step - margin, column * step + margin : (column + 1) * step - margin
    ]


@pytest.mark.parametrize("colour", [KEPT, (255, 255, 255), (0, 0, 0), (0, 114, 178)])
@pytest.mark.parametrize("draw", [viz.overlay, viz.heatmap])
def test_outlines_are_seen_on_every_colour(colour: tuple[int, int, int], draw: Any) -> None:
    """A line of the outline's colour, and a white one around it."""
    of = look(Image.new("RGB", (SIZE, SIZE), colour), stage(16, [5]))
    row = np.asarray(draw(of, 0, size=SIZE, caption=False))[SIZE // 2 - 40, : SIZE // 4]
    width = max(1, round(SIZE / 240))
    assert (row[-width:] == KEPT).all() and (row[-2 * width : -width] == 255).all()
    assert not (row[: -2 * width] == 255).all()


def test_kept_patches_are_untouched_and_dropped_ones_pale_and_grey() -> None:
    image = smooth(SIZE, SIZE)
    pixels, view = panel(look(image, stage(16, [5, 6]))), np.asarray(image)
    for token in range(16):
        found = cell(pixels, token)
        if token in (5, 6):
            assert np.array_equal(found, cell(view, token))
        else:
            assert (found == found[..., :1]).all()  # no colour
            assert found.std() < 0.5 * cell(view, token).std() + 1


@pytest.mark.parametrize("level", [0, 115, 165, 200, 255])
def test_kept_and_dropped_can_be_told_apart_on_any_grey(level: int) -> None:
    pixels = panel(look(Image.new("RGB", (SIZE, SIZE), (level,) * 3), stage(16, [5])))
    assert tuple(pixels[79, 120]) == KEPT and tuple(pixels[120, 160]) == KEPT  # on the dropped side
    assert (pixels[80:160, 80:160] == level).all()


def test_merged_patches_have_the_mean_colour_of_their_group() -> None:
    """Also where its patches lie apart; each group has its own."""
    image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    for token, colour in {3: (200, 0, 0), 12: (0, 100, 0), 6: (0, 0, 80), 7: (0, 0, 40)}.items():
        y, x = 80 * np.array(divmod(token, 4))
        image.paste(colour, (int(x), int(y), int(x) + 80, int(y) + 80))
    into = np.full(16, -1)
    into[[3, 12]], into[[6, 7]] = 12, 7
    pixels = panel(look(image, replace(stage(16, [0]), into=into)))
    for tokens, mean in (((3, 12), (100, 50, 0)), ((6, 7), (0, 0, 60))):
        for token in tokens:
            assert (cell(pixels, token) == mean).all(-1).mean() > 0.4
    assert not (cell(pixels, 5) == (100, 50, 0)).all(-1).any()


def test_merged_patches_are_hatched_with_a_dot_where_the_token_stands() -> None:
    image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    pixels = panel(look(image, stage(16, [0], merged=[9, 10], centre=[10])))
    blue = [(cell(pixels, t)[..., 2] > cell(pixels, t)[..., 0] + 20).mean() for t in range(16)]
    assert 0.1 < blue[9] < 0.5 and max(blue[t] for t in range(16) if t not in (9, 10)) < 0.02
    at = 80 * np.array(divmod(10, 4)) + 40
    assert tuple(pixels[tuple(at)]) == MERGED
    at = 80 * np.array(divmod(9, 4)) + 40
    assert tuple(pixels[tuple(at)]) != MERGED


def test_what_is_cut_off_is_dark_and_what_is_seen_outlined() -> None:
    image = Image.new("RGB", (640, 320), (100, 200, 100))
    of = look(image)
    (picture,) = of.pictures
    middle = replace(picture.views[0], x=160 + np.asarray(picture.views[0].x) / 2)
    of = replace(of, pictures=(viz.Picture(picture.frames, (middle,)),))
    green = panel(of, None, 640)[160, :, 1]
    dark = round(200 * CROPPED_CONTRAST)
    assert (green[:150] == dark).all() and (green[490:] == dark).all() and (green[165:475] == 200).all()


def test_padding_is_drawn_around_the_picture() -> None:
    image = Image.new("RGB", (320, 160), (10, 10, 10))
    of = look(image, stage(16, range(4, 12)))
    (picture,) = of.pictures
    tall = replace(picture.views[0], y=2 * np.asarray(picture.views[0].y) - 80)
    of = replace(of, pictures=(viz.Picture(picture.frames, (tall,)),))
    pixels = panel(of)
    assert pixels.shape[:2] == (320, 320)
    assert (pixels[84:236, 4:-4] == 10).all()  # the two middle rows are the picture, and kept
    assert (pixels[:70] > 150).all() and (pixels[250:] > 150).all()


def test_tokens_that_end_rows_stand_beside_the_picture() -> None:
    image = Image.new("RGB", (320, 320), (10, 10, 10))
    of = look(image, stage(20, [17]))
    (picture,) = of.pictures
    ending = replace(picture.views[0], ends=np.arange(16, 20))
    pixels = panel(replace(of, pictures=(viz.Picture(picture.frames, (ending,)),)))
    assert pixels.shape[:2] == (256, 320)  # a fifth column
    assert tuple(pixels[96, 290]) == KEPT and pixels[32, 290].min() > 150


@pytest.mark.parametrize("size", [(337, 336), (700, 401), (97, 350)], ids=str)
@pytest.mark.parametrize("token", [0, 23, 24 * 11 + 5, 575])
def test_a_marked_patch_is_coloured_where_it_is_kept_and_nowhere_else(
    size: tuple[int, int], token: int
) -> None:
    image = Image.new("RGB", size, (90, 120, 90))
    of = look(image, stage(576, [token]), stage(576, [t for t in range(576) if t != token]), side=24)
    x, y = of.pictures[0].views[0].x, of.pictures[0].views[0].y
    row, column = divmod(token, 24)
    mark = ImageDraw.Draw(image)
    mark.rectangle(
        (round(x[column, 0]), round(y[row, 0]), round(x[column, 1]) - 1, round(y[row, 1]) - 1), (255, 0, 0)
    )
    of = replace(of, pictures=(viz.Picture((image,), of.pictures[0].views),))

    def red(pixels: np.ndarray) -> np.ndarray:
        return (pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)

    kept, others = red(panel(of, 0, 480)), red(panel(of, 1, 480))
    scale = 480 / max(size)
    rows, columns = np.nonzero(kept)
    assert kept.sum() > 0.5 * scale**2 * np.diff(x[column])[0] * np.diff(y[row])[0]
    assert rows.mean() == pytest.approx(scale * y[row].mean(), abs=2)
    assert columns.mean() == pytest.approx(scale * x[column].mean(), abs=2)
    inside = np.s_[
        int(scale * y[row, 0]) + 3 : int(scale * y[row, 1]) - 2,
        int(scale * x[column, 0]) + 3 : int(scale * x[column, 1]) - 2,
    ]
    assert not others[inside].any()


def test_scores_are_colours_and_those_that_did_not_come_are_pale() -> None:
    scored = stage(16, [15])
    scored.score[:8] = np.nan
    of = look(Image.new("RGB", (SIZE, SIZE), (128, 128, 128)), scored)
    pixels = np.asarray(viz.heatmap(of, 0, size=SIZE, caption=False)).astype(int)
    assert (np.ptp(cell(pixels, 3), axis=2) == 0).all() and cell(pixels, 3).min() > 200
    dark, bright = cell(pixels, 8).mean((0, 1)), cell(pixels, 15).mean((0, 1))
    assert dark[2] > dark[0] and bright[0] > bright[2] + 80  # blue, yellow
    lightness = [cell(pixels, t).mean() for t in range(8, 15)]
    assert lightness[0] == min(lightness)


def test_colours_of_scores_grow_lighter_all_the_way() -> None:
    lightness = heat(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()


def luminance(colour: np.ndarray) -> float:
    """WCAG's, of a colour in 0..255."""
    level = colour / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize(
    "page", [(255, 255, 255), (30, 41, 59), (11, 15, 25)], ids=["white", "dark", "black"]
)
def test_the_lowest_score_stands_out_from_what_came_no_more(page: tuple[int, int, int]) -> None:
    """3:1, as WCAG asks of graphics, on white pages and on those of the demo's dark theme."""
    later = stage(16, [15])
    later.score[:8], later.score[8:] = np.nan, np.arange(8)
    of = look(Image.new("RGB", (SIZE, SIZE), (128, 128, 128)), later)
    clear = scored(of, 0, size=SIZE, clear=True)[0]
    seen = np.asarray(Image.alpha_composite(Image.new("RGBA", clear.size, (*page, 255)), clear))[..., :3]
    levels = sorted(luminance(cell(seen, token).mean((0, 1))) + 0.05 for token in (2, 8))
    assert levels[1] / levels[0] >= 3


def test_scores_that_are_all_alike_or_infinite_can_be_drawn() -> None:
    flat = stage(16, [0])
    flat.score[:] = 1.0
    flat.score[3] = -np.inf
    of = look(smooth(64, 64), flat)
    assert viz.heatmap(of, 0).width >= 480


@pytest.mark.parametrize("size", [(1, 1), (100, 1), (1, 100), (30, 3000)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_extreme_pictures_can_be_drawn(size: tuple[int, int], mode: str) -> None:
    assert (
        max(viz.overlay(look(Image.new(mode, size).convert("RGB"), stage(16, [3])), caption=False).size)
        == 480
    )


@pytest.mark.parametrize("number", [1, -2])
def test_a_stage_that_there_is_not(number: int) -> None:
    for draw in (viz.overlay, viz.heatmap):
        with pytest.raises(SparseSightError, match=rf"stage={number}: this prefill had 1"):
            draw(look(smooth(8, 8), stage(16, [3])), number)
    with pytest.raises(SparseSightError, match="ran dense"):
        viz.heatmap(look(smooth(8, 8)), 0)


def test_a_size_that_is_none() -> None:
    for size in (0, 31, 10_000, 3.5, "large"):
        with pytest.raises(SparseSightError, match="size="):
            viz.overlay(look(smooth(8, 8)), None, size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("draw", [signed, scored])
@pytest.mark.parametrize("frames", [1, 3])
def test_on_a_dark_page_what_was_dropped_is_dark(draw: Any, frames: int) -> None:
    """Over white a clear picture is the opaque one; over a dark page only what remains is bright."""
    later = stage(16, [5])
    later.score[:4] = np.nan
    of = look(smooth(SIZE, SIZE), later)
    of = replace(of, pictures=of.pictures * frames)
    opaque, clear = draw(of, 0, size=SIZE)[0], draw(of, 0, size=SIZE, clear=True)[0]
    assert (opaque.mode, clear.mode) == ("RGB", "RGBA") and opaque.size == clear.size

    def over(level: int) -> np.ndarray:
        paper = Image.new("RGBA", clear.size, (level, level, level, 255))
        return np.asarray(Image.alpha_composite(paper, clear).convert("RGB")).astype(int)

    seen, dark = np.asarray(opaque).astype(int), over(30)
    assert np.abs(over(255) - seen).max() <= 1
    if frames == 1:
        assert cell(seen, 2).min() > 120 > cell(dark, 2).max()
        assert np.array_equal(cell(dark, 5), cell(seen, 5))
    else:
        assert (dark[0] == 30).any()  # between the frames there is no paper
