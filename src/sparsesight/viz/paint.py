"""Paints one view of one picture: the remaining patches, or their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ..core.record import StageRecord
from .colours import (
    CROPPED_CONTRAST,
    DROPPED_CONTRAST,
    DROPPED_LIGHT,
    EARLIER_CONTRAST,
    EARLIER_LIGHT,
    KEPT,
    MERGED,
    PADDING,
    PAPER,
    SCORED_CONTRAST,
    SKY,
    THROUGH_DROPPED,
    THROUGH_EARLIER,
    heat,
    ink,
)
from .legend import CENTRE, CUT, GONE, JOINED, PADDED, PATCH, ROW_END, Sign
from .patch_grid import View

if TYPE_CHECKING:
    from jaxtyping import Int

OUTSIDE, DROPPED, LEFT, INTO = range(4)  # what becomes of a pixel


@dataclass(frozen=True)
class Canvas:
    """A picture with the padding that a view adds around it, at the size in which it is painted.

    Attributes:
        pixels: uint8 [h, w, 3].
        real: boolean [h, w], where the picture is.
        token: int64 [h, w], the visual token that each pixel is of; -1 where the model does not see it.
        boxes: left, upper, right and lower edge of every token.
        ends: boolean [h, w], where tokens are that end rows.
        width: of lines, in pixels.
    """

    pixels: np.ndarray
    real: np.ndarray
    token: Int[np.ndarray, "h w"]
    boxes: dict[int, tuple[int, int, int, int]]
    ends: np.ndarray
    width: int

    @classmethod
    def of(cls, image: Image.Image, view: View, size: int) -> Canvas:
        """``size``: pixels of its longer side."""
        left, top, right, bottom = view.box
        right += view.end_width
        # What lies off the picture's edge by less than a twentieth of a patch is measured noise, or a pixel of
        # rounding: neither padding nor cut off.
        x, y = 0.05 * np.diff(view.x).mean(), 0.05 * np.diff(view.y).mean()
        left, top = left if left < -x else 0.0, top if top < -y else 0.0
        right = right if right > image.width + x else image.width
        bottom = bottom if bottom > image.height + y else image.height
        scale = size / max(right - left, bottom - top)

        def snapped(edge: float, last: float, noise: float) -> float:
            return next((end for end in (0.0, last) if abs(edge - end) < noise), edge)

        def across(edge: float) -> int:
            edge = snapped(edge, image.width, x)
            return round((min(max(edge, left), right) - left) * scale)

        def down(edge: float) -> int:
            edge = snapped(edge, image.height, y)
            return round((min(max(edge, top), bottom) - top) * scale)

        width, height = max(across(right), 1), max(down(bottom), 1)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        pixels[:] = np.where(_hatch(height, width, 8, 4)[..., None], PADDING, PAPER)
        at = (
            across(0),
            down(0),
            max(across(image.width), across(0) + 1),
            max(down(image.height), down(0) + 1),
        )
        shown = image.resize((at[2] - at[0], at[3] - at[1]), Image.Resampling.LANCZOS)
        inside = np.s_[at[1] : at[3], at[0] : at[2]]
        pixels[inside] = np.asarray(shown)[: height - at[1], : width - at[0]]
        real, token = np.zeros((height, width), dtype=bool), np.full((height, width), -1)
        real[inside] = True
        boxes = {}
        for number, box in view.cells():
            boxes[number] = across(box[0]), down(box[1]), across(box[2]), down(box[3])
            token[boxes[number][1] : boxes[number][3], boxes[number][0] : boxes[number][2]] = number
        ends = np.isin(token, view.ends) & (token >= 0)
        return cls(pixels, real, token, boxes, ends, max(1, round(size / 240)))

    def of_tokens(self, values: np.ndarray, fill: float) -> np.ndarray:
        """``values`` per token as [h, w]."""
        return np.where(self.token >= 0, values[np.maximum(self.token, 0)], fill)

    def grey(self) -> np.ndarray:
        """The picture without colours, float [h, w, 3]."""
        return np.asarray(Image.fromarray(self.pixels).convert("L").convert("RGB"), dtype=np.float64)


def paint_kept(
    image: Image.Image, view: View, stage: StageRecord | None, size: int, clear: bool = False
) -> tuple[Image.Image, set[Sign]]:
    """The painted view, and what a legend of it explains.

    Kept patches as they are and outlined, merged ones in the mean colour of their group and hatched, dropped ones pale
    and grey. What the processor cuts off is dark. Without a ``stage`` everything is kept, and what is seen is outlined.

    Args:
        clear: whether a page shows through what is dropped and through padding. Over white the picture is the same.
    """
    canvas = Canvas.of(image, view, size)
    if stage is None:
        state = np.where(canvas.token >= 0, LEFT, OUTSIDE)
    else:
        fates = np.select([stage.kept, stage.merged], [LEFT, INTO], DROPPED)
        state = canvas.of_tokens(fates, OUTSIDE)
    pixels, grey = canvas.pixels.astype(np.float64), canvas.grey()
    pale = DROPPED_LIGHT + DROPPED_CONTRAST * (grey - 128)
    stripes = _hatch(state.shape[0], state.shape[1], 3 * canvas.width + 6, canvas.width + 1)[..., None]
    out = np.where((state == DROPPED)[..., None], pale, pixels)
    if stage is not None and (state == INTO).any():
        mean = _group_means(pixels, canvas.of_tokens(stage.into, -1))
        joined = np.where(stripes, 0.4 * mean + 0.6 * np.array(SKY), mean)
        out = np.where((state == INTO)[..., None], joined, out)
    others = state == LEFT
    ends, cut = others & canvas.ends, (state == OUTSIDE) & canvas.real
    out[ends] = KEPT
    out[cut] *= CROPPED_CONTRAST
    there = {
        PATCH: others & ~canvas.ends,
        ROW_END: ends,
        JOINED: state == INTO,
        GONE: state == DROPPED,
        CUT: cut,
        PADDED: ~canvas.real & ~canvas.ends,
    }
    signs = {sign for sign, where in there.items() if where.any()}
    if stage is not None and _dots(out, canvas, np.flatnonzero(stage.centre)):
        signs.add(CENTRE)
    drawn = _outline(out, others, canvas.width)
    if clear:
        out = _clear(out, {THROUGH_DROPPED: there[GONE] & ~drawn, THROUGH_EARLIER: there[PADDED] & ~drawn})
    return _picture(out), signs


def paint_scores(
    image: Image.Image,
    view: View,
    stage: StageRecord,
    size: int,
    low: float,
    high: float,
    clear: bool = False,
) -> Image.Image:
    """Scores as colours over the grey picture, those kept outlined; tokens that came to the stage no more are pale.

    Args:
        low, high: the scores of the first and the last colour.
        clear: whether a page shows through pale tokens and through padding. Over white the picture is the same.
    """
    canvas = Canvas.of(image, view, size)
    scores = canvas.of_tokens(stage.score, np.nan)
    scored = np.isfinite(scores) | (scores == np.inf)
    share = (np.where(np.isfinite(scores), scores, high) - low) / (high - low if high > low else 1)
    grey = canvas.grey()
    out = canvas.pixels.astype(np.float64)
    out[(canvas.token < 0) & canvas.real] *= CROPPED_CONTRAST
    gone = (canvas.token >= 0) & ~scored
    out[gone] = EARLIER_LIGHT + EARLIER_CONTRAST * (grey[gone] - 128)
    out[scored] = (1 - SCORED_CONTRAST) * heat(share)[scored] + SCORED_CONTRAST * grey[scored]
    drawn = _outline(out, canvas.of_tokens(stage.kept, 0) > 0, canvas.width)
    if clear:
        padded = ~canvas.real & ~canvas.ends
        out = _clear(out, {THROUGH_EARLIER: (gone | padded) & ~drawn})
    return _picture(out)


def _clear(out: np.ndarray, parts: dict[float, np.ndarray]) -> np.ndarray:
    """``out`` [h, w, 3] as RGBA: each of the ``parts`` lets a page show through by its share."""
    made = np.dstack((out, np.full(out.shape[:2], 255.0)))
    for through, where in parts.items():
        made[where] = np.column_stack((ink(out[where], through), np.full(where.sum(), 255 * (1 - through))))
    return made


def _picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8))


def _group_means(pixels: np.ndarray, group: Int[np.ndarray, "h w"]) -> np.ndarray:
    """The mean colour [h, w, 3] of all pixels with the same ``group``; those of no group (-1) mean nothing."""
    numbers = group.ravel() + 1
    count = np.maximum(np.bincount(numbers), 1)
    means = [np.bincount(numbers, channel) / count for channel in pixels.reshape(-1, 3).T]
    return np.stack(means, -1)[numbers].reshape(pixels.shape)


def _hatch(height: int, width: int, period: int, stripe: int) -> np.ndarray:
    """Diagonal stripes, boolean [h, w], each ``stripe`` of ``period`` pixels wide."""
    return (np.arange(height)[:, None] + np.arange(width)) % period < stripe


def _outline(out: np.ndarray, inside: np.ndarray, width: int) -> np.ndarray:
    """A double line around ``inside``, which can be seen on any colour; where it was drawn."""
    drawn = _rim(inside, 2 * width)
    out[drawn] = PAPER
    out[_rim(inside, width)] = KEPT
    return drawn


def _rim(inside: np.ndarray, width: int) -> np.ndarray:
    """The pixels around ``inside``, ``width`` of them."""
    grown = inside
    for _ in range(width):
        padded = np.pad(grown, 1)
        grown = grown | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown & ~inside


def _dots(out: np.ndarray, canvas: Canvas, tokens: np.ndarray) -> int:
    """Mark the places that merged tokens take, and say how many are on this canvas."""
    picture = Image.fromarray(np.clip(np.round(out), 0, 255).astype(np.uint8))
    draw, count = ImageDraw.Draw(picture), 0
    for token in tokens:
        left, top, right, bottom = canvas.boxes.get(int(token), (0, 0, 0, 0))
        if right <= left or bottom <= top:
            continue
        count += 1
        y, x = (top + bottom - 1) / 2, (left + right - 1) / 2
        radius = max(0.32 * min(right - left, bottom - top), 1.5)
        for reach, colour in ((radius + canvas.width, PAPER), (radius, MERGED)):
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)
    out[:] = np.asarray(picture)
    return count
