"""Pictures of what was kept: a patch is drawn where the model sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPVisionConfig, LlavaConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sparsesight import SparseSightError
from sparsesight.viz import CAPTION, EDGE, GAP, PANEL, Grid, kept_picture, kept_text

SIZES = [(336, 336), (640, 480), (480, 640), (1000, 351), (77, 201), (1, 1), (5, 3)]
RED = (255, 0, 0)


def llava(edge: int = 336, patch: int = 14, **changes: Any) -> tuple[LlavaConfig, Any]:
    """Configuration and processor of LLaVA-1.5, as far as the geometry goes."""
    vision = CLIPVisionConfig(image_size=edge, patch_size=patch)
    config = LlavaConfig(vision_config=vision, image_seq_length=(edge // patch) ** 2)
    settings = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}, **changes}
    return config, SimpleNamespace(image_processor=CLIPImageProcessorPil(**settings))


def grid() -> Grid:
    return Grid.of(*llava(), 576)


def small(side: int = 4) -> Grid:
    return Grid(side, side, patch=2, resize=2 * side, crop=(2 * side, 2 * side))


def seen(processor: Any, image: Image.Image) -> np.ndarray[Any, Any]:
    """What the model gets of a picture, [height, width, 3], as the processor itself makes it."""
    pixels = processor.image_processor(image, do_normalize=False, do_rescale=False, return_tensors="pt")
    return pixels["pixel_values"][0].permute(1, 2, 0).numpy().astype(float)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def panels(sheet: Image.Image, stages: int) -> list[np.ndarray[Any, Any]]:
    """The square panels of the stages, [side, side, 3], from the right."""
    assert sheet.height == CAPTION + PANEL + GAP
    lefts = [sheet.width - (stages - i) * (PANEL + GAP) for i in range(stages)]
    return [np.asarray(sheet.crop((x, CAPTION, x + PANEL, CAPTION + PANEL))) for x in lefts]


def redness(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which pixels are pure enough a red to come from a marked patch; the orange lines are not."""
    return (pixels[..., 0] > 200) & (pixels[..., 1] < 40) & (pixels[..., 2] < 40)


# Geometry


def test_the_grid_of_llava() -> None:
    assert grid() == Grid(24, 24, 14, 336, (336, 336))


@pytest.mark.parametrize("size", SIZES)
def test_the_box_is_what_the_processor_cuts_out(size: tuple[int, int]) -> None:
    config, processor = llava()
    image = smooth(*size)
    box = Grid.of(config, processor, 576).box(*size)
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] + 1e-9 and box[3] <= size[1] + 1e-9
    ours = np.asarray(image.resize((336, 336), Image.Resampling.BICUBIC, box), dtype=float)
    theirs = seen(processor, image)
    assert np.abs(ours - theirs).mean() < 1.0
    if min(size) > 50:  # the comparison notices a shift by half a patch
        shifted = np.roll(ours, 7, axis=int(size[0] > size[1]))
        assert np.abs(shifted - theirs).mean() > 1.5


def test_a_fixed_size_is_stretched_and_the_rest_of_the_last_patch_is_not_seen() -> None:
    """SigLIP: 384 pixels hold 27 patches of 14, and 6 pixels that no patch covers."""
    config = LlavaConfig(vision_config=CLIPVisionConfig(image_size=384, patch_size=14), image_seq_length=729)
    images = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    grid = Grid.of(config, SimpleNamespace(image_processor=images), 729)
    assert (grid.rows, grid.columns) == (27, 27)
    assert grid.box(768, 192) == (0, 0, 756, 189)


@pytest.mark.parametrize("size", [(336, 336), (700, 400), (400, 700), (1200, 350), (150, 97)])
@pytest.mark.parametrize("token", [0, 23, 24 * 11 + 5, 575])
def test_a_marked_patch_appears_where_it_was(size: tuple[int, int], token: int) -> None:
    config, processor = llava()
    grid = Grid.of(config, processor, 576)
    row, column = divmod(token, 24)
    # Mark the patch in the picture by way of the processor's own definition: resize, then cut out the centre.
    scale = min(size) / 336
    left = (max(size[0] * 336 // min(size), 336) - 336) // 2 + 14 * column
    top = (max(size[1] * 336 // min(size), 336) - 336) // 2 + 14 * row
    image = Image.new("RGB", size, (90, 120, 90))
    ImageDraw.Draw(image).rectangle(
        [
            round(left * scale),
            round(top * scale),
            round((left + 14) * scale) - 1,
            round((top + 14) * scale) - 1,
        ],
        RED,
    )
    # The processor agrees that the model sees red in this patch and in no other.
    patches = redness(seen(processor, image)).reshape(24, 14, 24, 14).mean((1, 3))
    assert patches.argmax() == token and patches.max() > 0.5

    kept, others = panels(kept_picture(image, [[token], [x for x in range(576) if x != token]], grid), 2)
    cell = PANEL // 24
    inside = kept[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
    assert redness(inside).mean() > 0.5
    # Where it was dropped there is no red, apart from what resampling bleeds over its edge.
    inside = others[row * cell + 1 : (row + 1) * cell - 1, column * cell + 1 : (column + 1) * cell - 1]
    assert not redness(inside).any()


# Panels


def test_kept_patches_are_untouched_and_dropped_ones_grey() -> None:
    image = smooth(336, 336)
    view = np.asarray(image.resize((PANEL, PANEL), Image.Resampling.BICUBIC))
    index = np.arange(0, 576, 5)
    (panel,) = panels(kept_picture(image, [index.tolist()], grid()), 1)
    mask = np.zeros(576, dtype=bool)
    mask[index] = True
    mask = np.kron(mask.reshape(24, 24), np.ones((16, 16), dtype=bool))
    assert np.array_equal(panel[mask], view[mask])
    line = (panel == EDGE).all(-1)
    assert line.any() and not (line & mask).any()
    dropped = panel[~mask & ~line]
    assert (dropped == dropped[:, :1]).all()  # no colour
    assert dropped.std() < 0.5 * view.std()  # little contrast


@pytest.mark.parametrize("level", [0, 115, 165, 200, 255])
def test_kept_and_dropped_can_be_told_apart_on_any_grey(level: int) -> None:
    image = Image.new("RGB", (336, 336), (level, level, level))
    (panel,) = panels(kept_picture(image, [[100]], grid()), 1)
    row, column = divmod(100, 24)
    assert tuple(panel[16 * row - 1, 16 * column + 8]) == EDGE
    assert tuple(panel[16 * row, 16 * column + 8]) == (level,) * 3


def test_the_first_panel_is_the_whole_picture_with_the_cropped_part_darkened() -> None:
    image = Image.new("RGB", (800, 400), (100, 200, 100))
    sheet = np.asarray(kept_picture(image, [[0]], grid()))
    first = sheet[CAPTION : CAPTION + PANEL, GAP : GAP + 2 * PANEL].astype(int)
    green = first[PANEL // 2, :, 1]
    quarter = PANEL // 2
    assert (green[:quarter] == 60).all() and (green[-quarter:] == 60).all()
    assert (green[quarter + 1 : -quarter - 1] == 200).all()


def test_a_square_picture_loses_nothing() -> None:
    image = smooth(336, 336)
    first = kept_picture(image, [], grid()).crop((GAP, CAPTION, GAP + PANEL, CAPTION + PANEL))
    assert np.array_equal(
        np.asarray(first), np.asarray(image.resize((PANEL, PANEL), Image.Resampling.BICUBIC))
    )


@pytest.mark.parametrize("size", [(1, 1), (100, 1), (1, 100), (30, 3000)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_extreme_pictures_can_be_drawn(size: tuple[int, int], mode: str) -> None:
    sheet = kept_picture(Image.new(mode, size), [[3], []], grid())
    assert sheet.height == CAPTION + PANEL + GAP
    assert sheet.width < 5 * PANEL


def captions(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> list[str]:
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, text, *rest, **more: written.append(text)
    )
    kept_picture(*args, **options)
    return written


def test_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [torch.arange(66), torch.arange(30), torch.tensor([], dtype=torch.int64)]
    image = Image.new("RGB", (640, 480))
    assert captions(monkeypatch, image, kept, grid(), [8, 0, 0], (5, 6, 15)) == [
        "the picture, 640 x 480",
        "after layer 5: 66 + 8 merged of 576",
        "after layer 6: 30 of 576",
        "after layer 15: 0 of 576",
    ]
    assert captions(monkeypatch, image, kept, grid())[1] == "stage 1: 66 of 576"
    nothing = captions(monkeypatch, image, kept[2:], grid(), [64], (-1,))
    assert nothing[1] == "before layer 0: 0 + 64 merged of 576"


def test_panels_do_not_overlap_their_neighbours_captions() -> None:
    narrow = Grid(12, 2, 14, (168, 28))
    sheet = kept_picture(Image.new("RGB", (28, 168)), [[0]], narrow, [3], [15])
    assert sheet.width > 400  # two panels of 64 pixels, and captions of some 200


@pytest.mark.parametrize("bad", [[16], [-1], torch.tensor([3, 99])])
def test_an_index_outside_the_grid(bad: Any) -> None:
    for draw in (
        lambda kept: kept_picture(Image.new("RGB", (8, 8)), kept, small()),
        lambda k: kept_text(k, small()),
    ):
        with pytest.raises(SparseSightError, match=r"kept\[1\].*4 x 4"):
            draw([[0], bad])


# Models whose tokens are not one plain grid


def test_tiles_are_refused() -> None:
    from transformers import LlavaNextConfig
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_pad=False
    )
    # Even where the count happens to fit.
    with pytest.raises(
        SparseSightError, match=r"no picture of what was kept .* yet: the 576 .* 'llava_next'"
    ):
        Grid.of(LlavaNextConfig(), SimpleNamespace(image_processor=images), 576)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_pad": True},
        {"do_center_crop": False},
        {"do_resize": False},
        {"crop_size": {"height": 448, "width": 448}},
        {"size": {"longest_edge": 336}},
    ],
)
def test_other_ways_to_prepare_a_picture_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SparseSightError, match="not one plain grid"):
        Grid.of(*llava(**changes), 576)


@pytest.mark.parametrize("tokens", [0, 575, 577, 1152])
def test_a_count_that_is_not_the_grids_is_refused(tokens: int) -> None:
    with pytest.raises(SparseSightError, match=f"the {tokens} visual tokens"):
        Grid.of(*llava(), tokens)


def test_a_configuration_that_says_otherwise_is_refused() -> None:
    config, processor = llava()
    config.image_seq_length = 144  # pooled, but then the count of two pictures might fit
    with pytest.raises(SparseSightError):
        Grid.of(config, processor, 576)


def test_a_model_without_what_is_needed_is_refused() -> None:
    config, processor = llava()
    for bad in ((SimpleNamespace(model_type="odd"), processor), (config, SimpleNamespace())):
        with pytest.raises(SparseSightError, match="no picture"):
            Grid.of(*bad, 576)


# Text


def test_text_shows_two_rows_of_patches_per_line() -> None:
    #   row 0: 0 . . 3      row 2: . . . .
    #   row 1: 4 5 . .      row 3: . 13 . 15
    text = kept_text([torch.tensor([0, 3, 4, 5, 13, 15])], small())
    assert text == "stage 1: 6 of 16\n█▄·▀\n·▄·▄"


def test_text_without_block_characters() -> None:
    text = kept_text([[0, 3, 4, 5, 13, 15]], small(), ascii_only=True)
    assert text == "stage 1: 6 of 16\n:. '\n . ."


def test_text_of_an_odd_number_of_rows() -> None:
    assert kept_text([[1, 8]], Grid(5, 2, 1, (5, 2)), layers=[0]) == "layer 0: 2 of 10\n·▀\n··\n▀·"


def test_text_names_layers_and_merged_tokens() -> None:
    text = kept_text([[0], [0]], small(), [2, 0], [3, 12], width=80)
    assert text.splitlines()[0] == "layer 3: 1+2 of 16  layer 12: 1 of 16"


@pytest.mark.parametrize("ascii_only", [False, True])
def test_three_stages_of_llava_fit_80_columns(ascii_only: bool) -> None:
    kept = [torch.arange(576), torch.arange(300), torch.arange(0, 576, 7)]
    lines = kept_text(kept, grid(), [10, 11, 12], [2, 6, 15], ascii_only=ascii_only).splitlines()
    assert len(lines) == 1 + 12
    assert max(map(len, lines)) <= 80
    assert "".join(lines).isascii() == ascii_only


def test_stages_that_do_not_fit_go_below() -> None:
    kept = [[i] for i in range(4)]
    blocks = kept_text(kept, grid(), width=60).split("\n\n")
    assert [block.splitlines()[0].count("stage") for block in blocks] == [2, 2]
    assert len(kept_text(kept, grid(), width=1).split("\n\n")) == 4
    # Nothing is lost by the arrangement.
    assert sum(kept_text(kept, grid(), width=60).count(sign) for sign in "▀▄") == 4


def test_text_of_no_stages_is_empty() -> None:
    assert kept_text([], grid()) == ""
