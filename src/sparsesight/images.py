"""Pictures from files: anything Pillow reads, as the plain RGB picture a processor expects, or one clear sentence."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .errors import SparseSightError

# Enough for a camera of 64 megapixels; decoded, such a picture takes 200 MB.
MAX_PIXELS = 64_000_000
# Processors that scale the shortest edge to 336 would make 11 million pixels of a strip of this shape, and without
# end of a longer one.
MAX_ASPECT = 100


def open_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture file as an upright RGB picture, 8 bits per channel.

    Transparency is laid on white, an EXIF orientation is applied, an animation gives its first frame. Grey values of
    16 bits are scaled to 8 (32-bit integers are taken for 16-bit ones), floating-point ones are stretched from the
    least to the greatest.

    Args:
        path: a file in any format that Pillow reads.
        max_pixels: larger pictures are refused from their header, before anything is decoded. Pillow refuses more
            than 178,956,970 whatever is asked here.

    Raises:
        SparseSightError: missing, not a file, unreadable, empty, not a picture, damaged, too large or too narrow; the
            message names the file, the problem and what to do.
    """
    file = Path(path)
    name = repr(os.fspath(path))
    if not os.fspath(path):
        raise SparseSightError(f"{name} names no file: give the path of a picture")
    _check_file(file, name)
    try:
        # Sizes are checked below, with a message of our own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except UnidentifiedImageError:
        raise SparseSightError(f"{name} is not a picture that Pillow can read: use PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        # Pillow's own limit; its message begins with the number of pixels.
        pixels = re.search(r"\d+", str(error))
        size = f"{int(pixels[0]):,}" if pixels else "too many"
        raise SparseSightError(_too_large(name, size, max_pixels)) from None
    except Exception as error:  # Pillow's readers raise whatever a malformed header leads them to
        if isinstance(error, OSError) and error.errno is not None:  # from the operating system
            raise SparseSightError(f"{name} cannot be read ({_reason(error)}): check the file") from None
        raise SparseSightError(_damaged(name, error)) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise SparseSightError(_too_large(name, f"{width} x {height} = {width * height:,}", max_pixels))
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise SparseSightError(
                f"{name} is {width} x {height}, which is more than {MAX_ASPECT} times as long as wide: crop it first"
            )
        try:
            with _whole_files():
                return _to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # as above, from a malformed body
            raise SparseSightError(_damaged(name, error)) from None


@contextmanager
def _whole_files() -> Iterator[None]:
    """Have Pillow refuse files that are cut short, whatever another library has set."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_file(file: Path, name: str) -> None:
    """Refuse what is not a file with something in it; opening a pipe or a device could wait for ever."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise SparseSightError(f"{name} does not exist: check the path of the picture") from None
        raise SparseSightError(f"{name} cannot be read ({_reason(error)}): check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise SparseSightError(f"{name} is a directory: name a picture file in it")
    if not stat.S_ISREG(status.st_mode):
        raise SparseSightError(f"{name} is not a regular file: copy the picture to one")
    if not status.st_size:
        raise SparseSightError(f"{name} is empty: copy or download it again")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode to RGB, whatever the mode."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns 16-bit pictures white.
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        values = values - values.min()
        image = Image.fromarray(np.rint(255 * values / (values.max() or 1.0)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    # A copy even of RGB: the picture must outlive its file.
    return image.convert("RGB")


def _too_large(name: str, size: str, max_pixels: int) -> str:
    limit = min(max_pixels, 2 * Image.MAX_IMAGE_PIXELS) if Image.MAX_IMAGE_PIXELS else max_pixels
    return f"{name} has {size} pixels, more than the limit of {limit:,}: scale it down first"


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged or cut short ({_reason(error)}): copy, download or export it again"


def _reason(error: Exception) -> str:
    """What an exception says, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
