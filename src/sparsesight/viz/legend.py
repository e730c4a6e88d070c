"""Legend entries: each kind of patch with its name and how it is drawn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colours import KEPT, MERGED, PADDING, PAPER, RATES, RGB, RULE, SKY, THROUGH_DROPPED, ink, web


@dataclass(frozen=True)
class Sign:
    """A legend entry: a small square painted like the patches that it names."""

    name: str
    colour: RGB
    rim: bool = False
    stripes: RGB | None = None
    dot: bool = False
    clear: bool = False  # on a page its colour shows through

    def sample(self, side: int) -> Image.Image:
        """For a sheet, ``side`` pixels wide."""
        drawn = Image.new("RGB", (side, side), self.colour)
        draw = ImageDraw.Draw(drawn)
        if self.stripes:
            for x in range(-side, side, max(side // 3, 4)):
                draw.line((x, side, x + side, 0), self.stripes, max(side // 7, 1))
        if self.rim:
            draw.rectangle((0, 0, side - 1, side - 1), None, KEPT, max(round(side / 7), 2))
        else:
            draw.rectangle((0, 0, side - 1, side - 1), None, RULE)
        if self.dot:
            inner = side // 4
            draw.ellipse((inner, inner, side - 1 - inner, side - 1 - inner), MERGED)
        return drawn

    def css(self) -> str:
        """For a page."""
        ground = web(self.colour)
        if self.clear:
            levels = " ".join(str(round(level)) for level in ink(np.array(self.colour), THROUGH_DROPPED))
            ground = f"rgb({levels} / {1 - THROUGH_DROPPED:.0%})"
        if self.stripes:
            line = web(self.stripes)
            ground = f"repeating-linear-gradient(135deg,{ground} 0 3px,{line} 3px 5px)"
        if self.dot:
            ground = f"radial-gradient(circle,{web(MERGED)} 45%,{ground} 50%)"
        return f"background:{ground};border:" + (
            f"2px solid {web(KEPT)}" if self.rim else f"1px solid {web(RULE)}"
        )


# In the order of legends.
PATCH = Sign("kept", PAPER, rim=True)
ROW_END = Sign("kept row end", KEPT)
JOINED = Sign("merged", SKY, stripes=PADDING)
CENTRE = Sign("where a merged token stands", PAPER, dot=True)
GONE = Sign("dropped", (190, 190, 190), clear=True)
CUT = Sign("cut off", (60, 60, 60))
PADDED = Sign("padding", PAPER, stripes=RULE)
RATER = Sign("words that judged", RATES)
SIGNS = (PATCH, ROW_END, JOINED, CENTRE, GONE, CUT, PADDED, RATER)


def in_order(found: Collection[Sign]) -> list[Sign]:
    return [sign for sign in SIGNS if sign in found]
