"""Frequency-tuned saliency: how far the colour of each place is from the mean colour of its picture.

Achanta, Hemami, Estrada and Suesstrunk, "Frequency-tuned Salient Region Detection", CVPR 2009, equation 4: the
distance in CIELAB between the picture's mean and the picture under a 5 x 5 binomial blur.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from sparsesight.scenes.scenes import GRID, PATCH

# Linear sRGB to CIE XYZ, IEC 61966-2-1; the rows sum up to the white point D65.
RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
WHITE = RGB_TO_XYZ.sum(axis=1)
KNEE = 6 / 29  # below its cube the cube root of CIELAB gives way to a line
BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours: uint8 [..., 3] to float64 [..., 3], lightness from 0 to 100."""
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    ratio = linear @ RGB_TO_XYZ.T / WHITE
    root = np.where(ratio > KNEE**3, np.cbrt(ratio), ratio / (3 * KNEE**2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def blur(picture: np.ndarray) -> np.ndarray:
    """Binomial blur over 5 x 5 pixels of float [h, w, c]; the border is continued by its own value."""
    for axis in (0, 1):
        wide = [(2, 2) if axis == other else (0, 0) for other in range(picture.ndim)]
        padded = np.pad(picture, wide, mode="edge")
        size = picture.shape[axis]
        shifted = [np.take(padded, range(shift, shift + size), axis=axis) for shift in range(len(BINOMIAL))]
        picture = np.tensordot(BINOMIAL, np.stack(shifted), axes=1)
    return picture


def saliency(rgb: np.ndarray) -> np.ndarray:
    """Distance of every pixel from the mean colour: uint8 [h, w, 3] to float64 [h, w]."""
    colors = lab(rgb)
    distance: np.ndarray = np.linalg.norm(blur(colors) - colors.mean(axis=(0, 1)), axis=-1)
    return distance


def patch_saliency(image: Image.Image) -> np.ndarray:
    """Mean saliency of each patch of a scene's picture, in reading order: float32 [GRID * GRID]."""
    pixels = saliency(np.asarray(image.convert("RGB")))
    mean: np.ndarray = pixels.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3))
    return mean.ravel().astype(np.float32)
