"""The colours of all pictures, which colour-blind readers can distinguish, and their meaning."""

from __future__ import annotations

import numpy as np

RGB = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design", 2008.
BLACK: RGB = (0, 0, 0)
ORANGE: RGB = (230, 159, 0)
SKY: RGB = (86, 180, 233)
GREEN: RGB = (0, 158, 115)
YELLOW: RGB = (240, 228, 66)
BLUE: RGB = (0, 114, 178)
VERMILLION: RGB = (213, 94, 0)
PURPLE: RGB = (204, 121, 167)
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)

PAPER, INK, QUIET, RULE = (255, 255, 255), (34, 34, 34), (102, 102, 102), (208, 208, 208)
EITHER: RGB = (128, 128, 128)  # letters that can be read on light and dark
KEPT, MERGED, RATES = VERMILLION, BLUE, YELLOW  # besides, kept is outlined, merged hatched, raters underlined
# A dropped patch loses its colours and most of its contrast, and becomes lighter; what was cropped off becomes darker.
DROPPED_CONTRAST, DROPPED_LIGHT = 0.35, 175
SCORED_CONTRAST = 0.16  # of the grey picture under the colours of scores
EARLIER_CONTRAST, EARLIER_LIGHT = 0.15, 222  # dropped before the stage of which scores are shown
CROPPED_CONTRAST = 0.3
PADDING: RGB = (236, 236, 236)

# From blue over grey to yellow: told apart in any kind of colour blindness, and by lightness alone. The blue stands out
# 3:1 from what is dark on a dark page, and from what is pale on a white one.
_HEAT = np.array(
    [
        (70, 125, 205),
        (105, 140, 186),
        (138, 156, 167),
        (169, 174, 148),
        (200, 193, 124),
        (228, 212, 98),
        (255, 234, 70),
    ]
)


def heat(values: np.ndarray) -> np.ndarray:
    """Colours, uint8 [..., 3], of values between 0 and 1."""
    at = np.clip(values, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(at.astype(int), len(_HEAT) - 2)
    share = (at - low)[..., None]
    return np.round(_HEAT[low] * (1 - share) + _HEAT[low + 1] * share).astype(np.uint8)


# How much of a page shows through where a picture is clear. Over white the colours are those above: with less paper in
# them than this, none of them could be mixed.
THROUGH_DROPPED = (DROPPED_LIGHT - 128 * DROPPED_CONTRAST) / 255
THROUGH_EARLIER = (EARLIER_LIGHT - 128 * EARLIER_CONTRAST) / 255


def ink(colours: np.ndarray, through: float) -> np.ndarray:
    """The colours which, over white that shows ``through`` by this share, look as ``colours`` in 0..255 do."""
    return (colours - 255 * through) / (1 - through)


def web(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
