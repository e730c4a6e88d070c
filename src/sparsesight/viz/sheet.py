"""Arranges pictures on a sheet, with captions, the question with its raters, and a legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colours import EITHER, INK, PAPER, QUIET, RATES, heat
from .legend import Sign, in_order
from .patch_grid import View
from .prompt_tokens import Word, question_words
from .record import Look

GAP = 12
Painter = Callable[[Image.Image, View, int], Image.Image]


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture with lines of text above it; the first is larger."""

    picture: Image.Image
    lines: tuple[str, ...] = ()


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def letters(size: int) -> int:
    """Font size in pixels for a panel whose longer side is ``size``; at 320 it is that of a web page."""
    return max(13, round(size / 26))


def painted(look: Look, paint: Painter, size: int) -> Image.Image:
    """Every view of every picture; the longer side of each is ``size``, less where there are more than two."""
    shown = [
        (picture.frames[min(view.frame, len(picture.frames) - 1)], view)
        for picture in look.pictures
        for view in picture.views
    ]
    if len(shown) == 1:
        return paint(*shown[0], size)
    names = len({view.name for _, view in shown}) > 1
    columns = min(math.ceil(math.sqrt(len(shown))), 4) if len(shown) > 3 else len(shown)
    each = size if len(shown) <= 2 else max(round(1.6 * size / columns), 120)
    panels = [
        CaptionedPicture(paint(image, view, each), (view.name,) if names else ()) for image, view in shown
    ]
    return arrange(panels, columns, max(round(0.8 * letters(size)), 12), GAP // 2, 0)


def arrange(
    panels: Sequence[CaptionedPicture], columns: int, letter: int, gap: int = GAP, edge: int = GAP
) -> Image.Image:
    """Panels in rows of ``columns``, each column as wide as it needs; of clear pictures the paper is clear too."""
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    lines = [max(len(panel.lines) for panel in row) for row in rows]
    pace = round(1.45 * letter)

    def broad(panel: CaptionedPicture) -> int:
        widths = [font(letter).getlength(line) for line in panel.lines]
        return max(panel.picture.width, *(round(width) + 1 for width in widths), 1)

    widths = [max(broad(row[c]) for row in rows if c < len(row)) for c in range(min(columns, len(panels)))]
    heights = [
        n * pace + max(panel.picture.height for panel in row) for n, row in zip(lines, rows, strict=True)
    ]
    width = sum(widths) + gap * (len(widths) - 1) + 2 * edge
    clear = any(panel.picture.mode == "RGBA" for panel in panels)
    size = width, sum(heights) + gap * (len(rows) - 1) + 2 * edge
    sheet = Image.new("RGBA", size, (*PAPER, 0)) if clear else Image.new("RGB", size, PAPER)
    draw, y = ImageDraw.Draw(sheet), edge
    for row, count, height in zip(rows, lines, heights, strict=True):
        x = edge
        for panel, across in zip(row, widths, strict=False):
            for number, line in enumerate(panel.lines):
                colour = EITHER if clear else INK if not number else QUIET
                draw.text((x, y + pace * number + pace // 2), line, colour, font(letter), anchor="lm")
            sheet.paste(panel.picture, (x, y + count * pace))
            x += across + gap
        y += height + gap
    return sheet


def stack(*parts: Image.Image | None) -> Image.Image:
    """Stack parts vertically, aligned at the left edge."""
    there = [part for part in parts if part is not None]
    sheet = Image.new("RGB", (max(p.width for p in there), sum(p.height for p in there)), PAPER)
    y = 0
    for part in there:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def question(words: Sequence[Word], width: int, letter: int) -> Image.Image | None:
    """The text about the last picture, with raters on yellow and underlined; None without text."""
    lines, x, type_ = [[]], 0.0, font(letter)  # type: ignore[var-annotated]
    for word in question_words(words):
        for number, part in enumerate(word.text.split("\n")):
            shown = part if x else part.lstrip(" ")
            across = type_.getlength(shown)
            if lines[-1] and (number or x + across > width - 2 * GAP):
                lines.append([])
                x, shown = 0.0, part.lstrip(" ")
                across = type_.getlength(shown)
            if shown:
                lines[-1].append((x, shown, word.rates))
                x += across
    lines = [line for line in lines if line]
    if not lines:
        return None
    pace = round(1.6 * letter)
    sheet = Image.new("RGB", (width, pace * len(lines) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        middle = GAP + pace * number + pace // 2
        for x, shown, rates in line:
            if rates and shown.strip():
                inner = shown.lstrip(" ")
                left = GAP + x + type_.getlength(shown) - type_.getlength(inner)
                box = (
                    left - 1,
                    middle - 0.75 * letter,
                    left + type_.getlength(inner),
                    middle + 0.62 * letter,
                )
                draw.rectangle(box, RATES)
                draw.line((box[0], box[3], box[2], box[3]), INK, max(1, letter // 10))
            draw.text((GAP + x, middle), shown, INK, type_, anchor="lm")
    return sheet


def legend(found: Collection[Sign], width: int, letter: int) -> Image.Image:
    """A legend of the colours that were used."""
    entries = [(sign.name, sign.sample(round(1.1 * letter))) for sign in in_order(found)]
    type_, x, y, pace = font(letter), GAP, GAP // 2, round(1.6 * letter)
    places = []
    for name, sign in entries:
        across = round(sign.width + 0.4 * letter + type_.getlength(name) + 1.2 * letter)
        if x > GAP and x + across > width - GAP:
            x, y = GAP, y + pace
        places.append((x, y, name, sign))
        x += across
    sheet = Image.new("RGB", (width, y + pace + GAP // 2), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, y, name, sign in places:
        sheet.paste(sign, (x, y + (pace - sign.height) // 2))
        draw.text((x + sign.width + round(0.4 * letter), y + pace // 2), name, QUIET, type_, anchor="lm")
    return sheet


def scale(low: float, high: float, width: int, letter: int) -> Image.Image:
    """The colours of scores from ``low`` to ``high``."""
    type_ = font(letter)
    pace = round(1.6 * letter)
    sheet = Image.new("RGB", (width, pace + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    first, last = f"score {low:.2g}", f"{high:.2g}"
    left = GAP + round(type_.getlength(first) + 0.5 * letter)
    right = max(width - GAP - round(type_.getlength(last) + 0.5 * letter), left + 2)
    bar = heat(np.linspace(0, 1, right - left))[None].repeat(max(letter - 2, 2), 0)
    sheet.paste(Image.fromarray(bar), (left, (pace - bar.shape[0]) // 2))
    draw.text((GAP, pace // 2), first, QUIET, type_, anchor="lm")
    draw.text((right + round(0.5 * letter), pace // 2), last, QUIET, type_, anchor="lm")
    return sheet
