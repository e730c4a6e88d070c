"""Draws pictures of one stage, of all stages, of several runs, and animations."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..core.record import StageRecord
from ..errors import SparseSightError
from .legend import RATER, Sign
from .paint import paint_kept, paint_scores
from .patch_grid import View
from .prompt_tokens import question_words
from .record import Look, by_name, checked
from .sheet import CaptionedPicture, arrange, legend, letters, painted, question, scale, stack

SIZE = 480  # pixels of a panel's longer side


def overlay(look: Look, stage: int | None = -1, *, size: int = SIZE, caption: bool = True) -> Image.Image:
    """The patches that one stage kept, drawn on the picture.

    Kept patches are unchanged and outlined, merged ones hatched and in the mean colour of their group (a dot marks
    the position of the merged token), dropped ones pale and grey. Parts that the processor cuts off are dark,
    padding that it adds is light and hatched. Several views, tiles or frames are shown side by side.

    Args:
        look: from :func:`look`.
        stage: counted from 0, or from the last if negative; None for the picture before any stage.
        size: pixels of the longer side.
        caption: whether to add a line above that says what is shown.

    Raises:
        SparseSightError: there is no such stage (for a prefill that ran dense, -1 shows the whole picture).
    """
    picture, _ = signed(look, stage, size=size)
    if not caption:
        return picture
    return arrange([CaptionedPicture(picture, _lines(look, _chosen(look, stage)))], 1, letters(size))


def signed(
    look: Look, stage: int | None = -1, *, size: int = SIZE, clear: bool = False
) -> tuple[Image.Image, set[Sign]]:
    """An overlay without its caption, and the entries for its legend.

    Args:
        clear: RGBA, for pages light and dark: dropped patches and padding let the page show through.
    """
    chosen, signs = _chosen(look, stage), set[Sign]()

    def paint(image: Image.Image, view: View, each: int) -> Image.Image:
        picture, found = paint_kept(image, view, chosen, each, clear)
        signs.update(found)
        return picture

    return painted(look, paint, _checked(size)), signs


def stages(look: Look, *, size: int = SIZE, columns: int | None = None) -> Image.Image:
    """The picture and the patches that remain after each stage, with the question above and a legend below.

    Args:
        size: pixels of the longer side of each panel.
        columns: panels per row; by default about as many as rows.
    """
    shown: list[StageRecord | None] = [None, *checked(look).stages]
    panels, signs = [], {RATER} if any(x.rates for x in question_words(look.words)) else set()
    for number, chosen in _numbered(shown):
        picture, found = signed(look, number, size=size)
        panels.append(CaptionedPicture(picture, _lines(look, chosen)))
        signs |= found
    sheet = arrange(panels, _across(columns, math.ceil(math.sqrt(len(panels)))), letters(size))
    letter = letters(size)
    return stack(
        question(look.words, sheet.width, round(1.15 * letter)), sheet, legend(signs, sheet.width, letter)
    )


def heatmap(look: Look, stage: int = 0, *, size: int = SIZE, caption: bool = True) -> Image.Image:
    """The method's score of each patch at one stage, blue to yellow, with the kept ones outlined.

    What the scores are can differ from stage to stage; the caption has the method's own words for it.
    The colours span the scores from the 2nd to the 98th percentile. Patches dropped before the stage are pale.

    Raises:
        SparseSightError: there is no such stage.
    """
    picture, low, high = scored(look, stage, size=size)
    if not caption:
        return picture
    chosen, letter = look.stage(stage), letters(size)
    method = str(look.report.method["method"])
    sheet = arrange(
        [CaptionedPicture(picture, (f"{method}, {chosen.where}: {chosen.meaning.scores}",))], 1, letter
    )
    return stack(sheet, scale(low, high, sheet.width, letter))


def scored(
    look: Look, stage: int, *, size: int = SIZE, clear: bool = False
) -> tuple[Image.Image, float, float]:
    """A heat map without its caption, and the scores of its first and last colour; ``clear`` as in :func:`signed`."""
    chosen = checked(look).stage(stage)
    finite = chosen.score[np.isfinite(chosen.score)]
    low, high = map(float, np.percentile(finite, (2, 98)) if finite.size else (0.0, 0.0))

    def paint(image: Image.Image, view: View, each: int) -> Image.Image:
        return paint_scores(image, view, chosen, each, low, high, clear)

    return painted(look, paint, _checked(size)), low, high


def side_by_side(
    looks: Mapping[str, Look], stage: int = -1, *, size: int = 320, columns: int | None = None
) -> Image.Image:
    """The patches of the same picture that several methods or budgets kept.

    Args:
        looks: name (lines after the first are less prominent) -> look; ``columns`` of them per row.
        stage: counted from the last by default, as methods differ in their number of stages.

    Raises:
        SparseSightError: no looks, or one of them has no such stage.
    """
    looks = by_name(looks)
    panels, signs = [], set[Sign]()
    for name, look in looks.items():
        lines = (*name.split("\n"), *_lines(look, _chosen(look, stage)))
        picture, found = signed(look, stage, size=size)
        panels.append(CaptionedPicture(picture, lines))
        signs |= found
    sheet = arrange(panels, _across(columns, min(math.ceil(math.sqrt(len(panels))), 4)), letters(size))
    return stack(sheet, legend(signs, sheet.width, letters(size)))


def animate(look: Look, *, size: int = SIZE, ms: int = 1100, steps: int = 4) -> bytes:
    """A GIF that goes from the picture through the stages, in a loop.

    Args:
        ms: duration of each stage in milliseconds.
        steps: pictures in between, each of 60 milliseconds.
    """
    frames: list[Image.Image] = []
    times: list[int] = []
    before: Image.Image | None = None
    for number, stage in _numbered([None, *checked(look).stages]):
        picture = overlay(look, number, size=size, caption=False)
        mixed = (
            []
            if before is None
            else [Image.blend(before, picture, step / (steps + 1)) for step in range(1, steps + 1)]
        )
        shown = [CaptionedPicture(each, (_said(look, stage),)) for each in (*mixed, picture)]
        frames += [arrange([panel], 1, letters(size)) for panel in shown]
        times += [60] * len(mixed) + [ms]
        before = picture
    times[-1] *= 2
    broad = max(frame.width for frame in frames)  # a caption may be wider than a narrow picture
    frames = [ImageOps.pad(frame, (broad, frame.height), color="white", centering=(0, 0)) for frame in frames]
    # One palette for all, or still patches would flicker.
    still = [frame for frame, time in zip(frames, times, strict=True) if time >= ms]
    palette = _palette(arrange([CaptionedPicture(frame) for frame in still], 1, 12, 0, 0))
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    flat[0].save(out, "GIF", save_all=True, append_images=flat[1:], duration=times, loop=0, optimize=True)
    return out.getvalue()


def _palette(picture: Image.Image) -> Image.Image:
    """255 colours: 32 greys, which dropped patches need, and the picture's own."""
    greys = [level for step in range(32) for level in (round(step * 255 / 31),) * 3]
    colours = picture.quantize(223, method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(greys + colours[: 3 * 223])
    return palette


def raters(look: Look, *, width: int = 640, letter: int = 18) -> Image.Image:
    """The question, with raters on yellow and underlined.

    Raises:
        SparseSightError: the look was made without ``inputs``.
    """
    picture = question(checked(look).words, width, letter)
    if picture is None:
        raise SparseSightError(
            "raters: this record has no prompt tokens; make it with look(run, image, processor, inputs)"
        )
    return stack(picture, Image.new("RGB", (width, 12), "white"))


def _chosen(look: Look, stage: int | None) -> StageRecord | None:
    checked(look)
    if stage is None or (stage == -1 and not look.stages):
        return None
    return look.stage(stage)


def _said(look: Look, stage: StageRecord | None) -> str:
    if stage is None:
        return f"{look.visual} visual tokens" if look.stages else f"all {look.visual} visual tokens kept"
    return f"{stage.where}: {stage.counts()}"


def _lines(look: Look, stage: StageRecord | None) -> tuple[str, ...]:
    """What was left, and by what the method chose it, if that is not the score."""
    kept = "" if stage is None else stage.meaning.kept
    return (_said(look, stage), kept) if kept else (_said(look, stage),)


def _numbered(shown: Sequence[StageRecord | None]) -> list[tuple[int | None, StageRecord | None]]:
    return [(None if i == 0 else i - 1, stage) for i, stage in enumerate(shown)]


def _across(columns: Any, usual: int) -> int:
    if columns is None:
        return usual
    if not isinstance(columns, int) or columns < 1:
        raise SparseSightError(f"columns={columns!r}: panels beside one another, 1 or more")
    return columns


def _checked(size: Any) -> int:
    if not isinstance(size, int) or not 32 <= size <= 8192:
        raise SparseSightError(f"size={size!r}: pixels of the longer side, from 32 to 8192")
    return size
