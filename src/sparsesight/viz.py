"""What was kept, to look at: as a picture with one panel per stage, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .budget import BEFORE
from .errors import SparseSightError

if TYPE_CHECKING:
    from torch import Tensor

    Kept = Sequence[Tensor | Sequence[int]]

PANEL = 384  # pixels of a panel's longer side, or a little less: a patch takes whole pixels
GAP = 16
CAPTION = 30
PAPER, INK, FRAME, EDGE = (255, 255, 255), (40, 40, 40), (200, 200, 200), (255, 96, 0)
# A dropped patch loses its colours and most of its contrast, and becomes lighter; what was cropped off becomes darker.
DROPPED_CONTRAST, DROPPED_LIGHT = 0.35, 165
CROPPED_CONTRAST = 0.3


@dataclass(frozen=True)
class Grid:
    """Which part of a picture each visual token stands for, in a model that sees one square-cut view of it.

    Token ``i`` is the patch in row ``i // columns`` and column ``i % columns``.

    Attributes:
        rows, columns: patches.
        patch: pixels of a patch's side, after resizing.
        resize: what the processor resizes a picture to: its shortest edge, or (height, width).
        crop: (height, width) of the centre that it then cuts out; None if it cuts nothing off.
    """

    rows: int
    columns: int
    patch: int
    resize: int | tuple[int, int]
    crop: tuple[int, int] | None = None

    @classmethod
    def of(cls, config: Any, processor: Any, visual_tokens: int) -> Grid:
        """The grid of a model, from its configuration and its processor's.

        Args:
            config: of the model, as transformers has it.
            processor: with an ``image_processor``.
            visual_tokens: of one prompt with one picture; the grid must account for every one.

        Raises:
            SparseSightError: if the visual tokens are anything but one grid of patches of one view (tiles, several
                pictures, pooled or newline tokens, padding): what they stand for is not known here.
        """
        unknown = SparseSightError(
            f"there is no picture of what was kept for this model yet: the {visual_tokens} visual tokens of "
            f"{getattr(config, 'model_type', type(config).__name__)!r} are not one plain grid of patches"
        )
        images = getattr(processor, "image_processor", None)
        patch = getattr(getattr(config, "vision_config", None), "patch_size", None)
        size = _sizes(getattr(images, "size", None))
        tiled = any(
            getattr(images, name, None) for name in ("image_grid_pinpoints", "do_pad", "crop_to_patches")
        )
        if tiled or size is None or not isinstance(patch, int) or not getattr(images, "do_resize", False):
            raise unknown
        crops = getattr(images, "do_center_crop", False)
        seen = _sizes(getattr(images, "crop_size", None)) if crops else size
        if not isinstance(seen, tuple):
            raise unknown  # as long as the picture happens to be
        if seen != size and max(seen) > (size if isinstance(size, int) else min(size)):
            raise unknown  # a crop larger than the picture adds a frame
        rows, columns = seen[0] // patch, seen[1] // patch
        expected = {visual_tokens, getattr(config, "image_seq_length", None) or visual_tokens}
        if expected != {rows * columns}:
            raise unknown
        return cls(rows, columns, patch, size, seen if crops else None)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of what the model sees of a picture, in pixels of the picture."""
        if isinstance(self.resize, int):
            short, long = min(width, height), max(width, height)
            longer = int(self.resize * long / short)
            new = (longer, self.resize) if width > height else (self.resize, longer)
        else:
            new = self.resize[::-1]
        left = top = 0
        if self.crop is not None:
            left, top = (new[0] - self.crop[1]) // 2, (new[1] - self.crop[0]) // 2
        x, y = width / new[0], height / new[1]
        right, bottom = left + self.columns * self.patch, top + self.rows * self.patch
        return left * x, top * y, right * x, bottom * y


def _sizes(size: Any) -> int | tuple[int, int] | None:
    """A processor's size as a shortest edge or (height, width); None if it is anything else."""
    sides = ("height", "width", "shortest_edge", "longest_edge")
    found = [size.get(s) if isinstance(size, dict) else getattr(size, s, None) for s in sides]
    height, width, shortest, longest = found
    if height and width:
        return int(height), int(width)
    if shortest and not longest:
        return int(shortest)
    return None


def kept_picture(
    image: Image.Image,
    kept: Kept,
    grid: Grid,
    merged: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> Image.Image:
    """The picture, then one panel per stage, side by side.

    The first panel is the whole picture, with what the processor crops off darkened and the rest outlined. The others
    show only the part that the model sees: kept patches as they are and outlined, dropped ones pale and grey.

    Args:
        image: the picture that the model was asked about.
        kept: per stage, the indices of the kept visual tokens (one sample of :attr:`Sparsified.kept`).
        grid: the model's grid.
        merged: per stage, how many merged tokens went on beside the kept ones; they are only counted.
        layers: per stage, the layer after which it pruned (-1: before the first), for the caption.

    Raises:
        SparseSightError: if an index lies outside the grid.
    """
    masks = _masks(kept, grid)
    image = image.convert("RGB")
    box = grid.box(*image.size)
    cell = max(PANEL // max(grid.rows, grid.columns), 2)
    size = (grid.columns * cell, grid.rows * cell)
    view = image.resize(size, Image.Resampling.BICUBIC, box)
    first = _whole(image, box, size[1])
    panels = [(first, f"the picture, {image.width} x {image.height}")]
    for i, mask in enumerate(masks):
        where = f"stage {i + 1}" if layers is None else f"after layer {layers[i]}"
        where = "before layer 0" if layers is not None and layers[i] == BEFORE else where
        more = f" + {merged[i]} merged" if merged is not None and merged[i] else ""
        panels.append((_panel(view, mask, cell), f"{where}: {mask.sum()}{more} of {mask.size}"))
    font = ImageFont.load_default(16)
    widths = [max(p.width, round(font.getlength(caption))) for p, caption in panels]
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(panels) + 1), size[1] + CAPTION + GAP), PAPER)
    draw, x = ImageDraw.Draw(sheet), GAP
    for (panel, caption), width in zip(panels, widths, strict=True):  # as wide as the caption needs
        draw.text((x, CAPTION // 2), caption, INK, font, anchor="lm")
        draw.rectangle((x - 1, CAPTION - 1, x + panel.width, CAPTION + panel.height), outline=FRAME)
        sheet.paste(panel, (x, CAPTION))
        x += width + GAP
    return sheet


def kept_text(
    kept: Kept,
    grid: Grid,
    merged: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    *,
    width: int = 80,
    ascii_only: bool = False,
) -> str:
    """What each stage kept, in characters that are one patch wide and two patches high.

    Captions are short, so that three stages of 24 x 24 patches fit 80 columns: ``layer 5: 66+8 of 576`` are 66 kept
    and 8 merged tokens.

    Args:
        kept, grid, merged, layers: as for :func:`kept_picture`.
        width: columns to fill; stages that do not fit go below.
        ascii_only: for terminals without block characters.

    Returns:
        Lines without colour or trailing newline; empty if no stage pruned.

    Raises:
        SparseSightError: if an index lies outside the grid.
    """
    masks = _masks(kept, grid)
    signs = " '.:" if ascii_only else "·▀▄█"
    blocks = []
    for i, mask in enumerate(masks):
        where = f"stage {i + 1}" if layers is None else f"layer {layers[i]}"
        where = "before layer 0" if layers is not None and layers[i] == BEFORE else where
        more = f"+{merged[i]}" if merged is not None and merged[i] else ""
        caption = f"{where}: {mask.sum()}{more} of {mask.size}"
        even = np.pad(mask, ((0, grid.rows % 2), (0, 0)))
        pairs = even[0::2] + 2 * even[1::2].astype(int)
        blocks.append([caption, *("".join(signs[x] for x in row) for row in pairs)])
    broad = max([grid.columns, *(len(block[0]) for block in blocks)])
    beside = max((width + 2) // (broad + 2), 1)
    rows = []
    for i in range(0, len(blocks), beside):
        lines = zip(*blocks[i : i + beside], strict=True)
        rows.append("\n".join("  ".join(part.ljust(broad) for part in line).rstrip() for line in lines))
    return "\n\n".join(rows)


def _masks(kept: Kept, grid: Grid) -> list[np.ndarray[Any, Any]]:
    """Boolean [rows, columns] per stage."""
    masks = []
    for stage, indices in enumerate(kept):
        index = np.asarray(indices, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= grid.rows * grid.columns):
            raise SparseSightError(
                f"kept[{stage}] goes from {index.min()} to {index.max()}, but the grid has "
                f"{grid.rows} x {grid.columns} patches"
            )
        mask = np.zeros(grid.rows * grid.columns, dtype=bool)
        mask[index] = True
        masks.append(mask.reshape(grid.rows, grid.columns))
    return masks


def _whole(image: Image.Image, box: tuple[float, float, float, float], height: int) -> Image.Image:
    """The picture at most ``height`` high and twice as wide; outside ``box`` it is darkened."""
    scale = min(height / image.height, 2 * height / image.width)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    whole = image.resize(size, Image.Resampling.BICUBIC)
    left, top, right, bottom = (round(edge * scale) for edge in box)
    if right - left >= size[0] and bottom - top >= size[1]:
        return whole
    dark = whole.point(lambda value: value * CROPPED_CONTRAST)
    dark.paste(whole.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(dark).rectangle((left, top, right - 1, bottom - 1), outline=EDGE)
    return dark


def _panel(view: Image.Image, mask: np.ndarray[Any, Any], cell: int) -> Image.Image:
    """``view`` with the dropped patches dimmed, and a line around the kept ones, drawn on the dropped side."""
    large = np.kron(mask, np.ones((cell, cell), dtype=bool))
    pixels = np.asarray(view)
    grey = np.asarray(view.convert("L").convert("RGB"), dtype=np.float64)
    pale = (DROPPED_LIGHT + DROPPED_CONTRAST * (grey - 128) + 0.5).astype(np.uint8)
    out = np.where(large[..., None], pixels, pale)
    around = np.pad(large, 1)
    near = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    out[near & ~large] = EDGE
    return Image.fromarray(out.astype(np.uint8))
