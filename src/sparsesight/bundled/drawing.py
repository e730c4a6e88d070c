"""What a scene is painted with: shapes and letters as stencils, and the background.

Pixels are computed in integers throughout, so that no picture depends on how a machine rounds.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 336  # pixels along a picture


def background(rng: np.random.RandomState) -> Image.Image:
    """Soft colour clouds with a faint mottle, under a random tint; never as strong as an object's colour."""
    clouds = Image.fromarray(rng.randint(60, 150, size=(7, 7, 3)).astype(np.uint8))
    mottle = Image.fromarray(rng.randint(0, 255, size=(84, 84)).astype(np.uint8))
    smooth = np.asarray(clouds.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int64)
    rough = np.asarray(mottle.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.int64)[..., None]
    tint = rng.randint(-20, 21, size=3)
    return Image.fromarray(((8 * smooth + rough - 127) // 10 + 10 + tint).astype(np.uint8))


@cache
def stencil(shape: str, extent: int) -> Image.Image:
    """The coverage of a shape, 0 to 255 [extent, extent]; drawn four times as large for smooth edges."""
    big = 4 * extent
    end = big - 1
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        draw.ellipse((0, 0, end, end), fill=255)
        if shape == "ring":
            draw.ellipse((0.27 * big, 0.27 * big, 0.73 * end, 0.73 * end), fill=0)
    elif shape == "card":
        draw.rounded_rectangle((0, 0, end, end), radius=0.18 * big, fill=255)
    else:
        draw.polygon([(round(x * end), round(y * end)) for x, y in _outline(shape)], fill=255)
    return canvas.resize((extent, extent), Image.Resampling.BOX)


def _outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a shape in a unit square whose y grows down."""
    if shape == "square":
        return [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)]
    if shape == "triangle":
        return [(0.5, 0), (1, 0.93), (0, 0.93)]
    if shape == "diamond":
        return [(0.5, 0), (0.86, 0.5), (0.5, 1), (0.14, 0.5)]
    if shape == "cross":
        a, b = 0.33, 0.67  # the edges of the beams
        right = [(b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1)]
        return right + [(1 - x, 1 - y) for x, y in right]
    if shape == "star":
        spokes = [(np.pi * (tenth / 5 - 0.5), 0.225 if tenth % 2 else 0.5) for tenth in range(10)]
        return [(0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)) for angle, radius in spokes]
    if shape == "heart":
        turns = 2 * np.pi * np.arange(80) / 80
        x = 0.5 + 0.465 * np.sin(turns) ** 3
        rise = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
        return list(zip(x.tolist(), (0.56 - rise / 33).tolist(), strict=True))
    raise ValueError(f"no outline for shape {shape!r}")


@cache
def letter_stencil(letter: str) -> Image.Image:
    """The coverage of a letter, 0 to 255 [36, 36], in the font that Pillow itself carries.

    Drawn large and cut to black and white before it is reduced, because the soft edges that the font library
    gives to small letters differ between its versions.
    """
    canvas = Image.new("L", (4 * 36, 4 * 36))
    font = ImageFont.load_default(size=4 * 30)
    place = 4 * 18, 4 * 19  # a little below the middle, as in the pictures that the model was trained on
    ImageDraw.Draw(canvas).text(place, letter, fill=255, font=font, anchor="mm", stroke_width=4)
    return canvas.point([0] * 128 + [255] * 128).resize((36, 36), Image.Resampling.BOX)
