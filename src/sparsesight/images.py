"""Pictures from files: six common formats, as the plain RGB picture a processor expects, or one clear sentence.

A file may come from anybody. It is judged by its header before a pixel is decoded, only the listed readers of Pillow
see it (others run programs, or decode while they open), and an error holds no pixels.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from .errors import SparseSightError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Enough for a camera of 64 megapixels.
MAX_PIXELS = 64_000_000
# Processors that scale the shortest edge to 336 would make 11 million pixels of a strip of this shape, and without
# end of a longer one.
MAX_ASPECT = 100
# A camera writes about ten. Each costs a pass over the whole picture and next to no bytes.
MAX_SCANS = 100
# Values in a list of a TIFF's header; Pillow makes several objects of each strip while it opens a file.
MAX_VALUES = 100_000
BYTES, TEXT, UNDEFINED = 1, 2, 7  # types of TIFF's fields whose values stay one string
ORIENTATION = ExifTags.Base.Orientation
BAND = 1 << 20  # pixels that are converted at a time: what is made on the way stays small


def open_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture file as an upright RGB picture, 8 bits per channel.

    Transparency is laid on white, an EXIF orientation is applied, an animation or a document of several pages gives its
    first. Grey values of 16 bits are scaled to 8 (32-bit integers are taken for 16-bit ones), floating-point ones are
    stretched from the least to the greatest.

    Args:
        path: a file in one of :data:`FORMATS`, whatever its name ends in.
        max_pixels: larger pictures are refused from their header, before anything is decoded. Pillow refuses more
            than 178,956,970 whatever is asked here.

    Raises:
        SparseSightError: missing, not a file, unreadable, empty, not a picture, of another format, damaged, too large
            or too narrow; the message names the file, the problem and what to do.
    """
    found = _open(path, max_pixels, decode=True)
    if found is None or isinstance(found, str):
        # Raised here, where nothing refers to the picture: tracebacks are kept longer than one thinks.
        raise SparseSightError(found or f"{os.fspath(path)!r} was not decoded")
    return found


def check_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> None:
    """Refuse what :func:`open_image` refuses, as far as the header tells; no pixel is decoded.

    Raises:
        SparseSightError: as :func:`open_image`, except for damage behind the header.
    """
    found = _open(path, max_pixels, decode=False)
    if isinstance(found, str):
        raise SparseSightError(found)


def open_image_data(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As :func:`open_image`, from the bytes of a file; ``name`` is what messages call it.

    Raises:
        SparseSightError: as :func:`open_image`.
    """
    found = _read(io.BytesIO(data), name, max_pixels, decode=True) if data else f"{name} is empty"
    if found is None or isinstance(found, str):
        raise SparseSightError(found or f"{name} was not decoded")
    return found


def check_image_data(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """As :func:`check_image`, from the bytes of a file.

    Raises:
        SparseSightError: as :func:`check_image`.
    """
    found = _read(io.BytesIO(data), name, max_pixels, decode=False) if data else f"{name} is empty"
    if isinstance(found, str):
        raise SparseSightError(found)


def _open(path: str | os.PathLike[str], max_pixels: int, decode: bool) -> Image.Image | str | None:
    """The picture (None without ``decode``), or why there is none."""
    name = repr(os.fspath(path))
    if not os.fspath(path):
        return f"{name} names no file: give the path of a picture"
    try:
        # Opening a pipe for reading would wait for a writer.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if re.match(r"[A-Za-z][\w+.-]*:/", os.fspath(path)):
            return f"{name} is a URL, which is not read: download the picture and name the file"
        return f"{name} does not exist: check the path of the picture"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read ({_reason(error)}): check the path"
    refused = _not_a_file(os.fstat(number), name)
    if refused:
        os.close(number)
        return refused
    with os.fdopen(number, "rb") as file:
        return _read(file, name, max_pixels, decode)


def _not_a_file(status: os.stat_result, name: str) -> str:
    """What is wrong with what was opened, if it is not a file with something in it."""
    if stat.S_ISDIR(status.st_mode):
        return f"{name} is a directory: name a picture file in it"
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is not a regular file: copy the picture to one"
    return "" if status.st_size else f"{name} is empty: copy or download it again"


def _read(file: IO[bytes], name: str, max_pixels: int, decode: bool) -> Image.Image | str | None:
    image = None
    try:
        _check_tiff(file)
        with _strict():
            image = Image.open(file, formats=FORMATS)
            refused = _too_large_or_narrow(image, name, max_pixels) or _too_many_scans(file, image, name)
            if refused or not decode:
                return refused or None
            image.load()
            rgb = _to_rgb(image)
            rgb.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
            ImageOps.exif_transpose(rgb, in_place=True)
        return rgb
    except UnidentifiedImageError:
        *others, last = FORMATS
        return f"{name} is not a picture in {', '.join(others)} or {last}: save it as PNG or JPEG"
    except Image.DecompressionBombError as error:
        # Pillow's own limit; its message begins with the number of pixels.
        pixels = re.search(r"\d+", str(error))
        return _too_large(name, f"{int(pixels[0]):,}" if pixels else "too many", max_pixels)
    except Exception as error:  # Pillow's readers raise whatever a malformed file leads them to
        if isinstance(error, OSError) and error.errno is not None:  # from the operating system
            return f"{name} cannot be read ({_reason(error)}): check the file"
        return f"{name} is damaged or cut short ({_reason(error)}): copy, download or export it again"
    finally:
        if image is not None:
            image.close()


@contextmanager
def _strict() -> Iterator[None]:
    """Have Pillow refuse files that are cut short, whatever another library has set, and warn of nothing: what is too
    large or damaged is refused with a message of our own."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb(image: Image.Image) -> Image.Image:
    """Decode to RGB, whatever the mode."""
    low, high = _span(image) if image.mode == "F" else (0.0, 0.0)
    made = Image.new("RGB", image.size)
    for left, top, right, bottom in _bands(image):
        band = image.crop((left, top, right, bottom))
        if band.mode.startswith("I"):
            # Pillow's own conversion clips at 255, which turns 16-bit pictures white.
            deep = np.asarray(band).clip(0, 65535).astype(np.uint32)
            band = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        elif band.mode == "F":
            values = 255 * (_numbers(band) - low) / (high - low or 1.0)
            band = Image.fromarray(np.rint(values).astype(np.uint8))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        made.paste(band.convert("RGB"), (left, top))
    return made


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of full width, one below the other, that cover a picture."""
    width, height = image.size
    step = max(BAND // width, 1)
    for top in range(0, height, step):
        yield 0, top, width, min(top + step, height)


def _span(image: Image.Image) -> tuple[float, float]:
    """Least and greatest value of a floating-point picture; what is no number counts as 0."""
    ends = [(band.min(), band.max()) for band in map(_numbers, map(image.crop, _bands(image)))]
    return min(float(low) for low, _ in ends), max(float(high) for _, high in ends)


def _numbers(image: Image.Image) -> Any:
    """Values of a floating-point picture, with 0 for what is no number."""
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)


def _too_large_or_narrow(image: Image.Image, name: str, max_pixels: int) -> str:
    width, height = image.size
    if not width * height:
        return f"{name} is {width} x {height}, which is no picture: export it again"
    if width * height > max_pixels:
        return _too_large(name, f"{width} x {height} = {width * height:,}", max_pixels)
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{name} is {width} x {height}, which is more than {MAX_ASPECT} times as long as wide: crop it first"
    return ""


def _too_large(name: str, size: str, max_pixels: int) -> str:
    limit = min(max_pixels, 2 * Image.MAX_IMAGE_PIXELS) if Image.MAX_IMAGE_PIXELS else max_pixels
    return f"{name} has {size} pixels, more than the limit of {limit:,}: scale it down first"


def _too_many_scans(file: IO[bytes], image: Image.Image, name: str) -> str:
    """A JPEG is decoded once for each of its scans, of which a small file can hold a million."""
    if image.format not in ("JPEG", "MPO"):
        return ""
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    return f"{name} has {scans:,} scans, more than the limit of {MAX_SCANS}: export it again" * (
        scans > MAX_SCANS
    )


def _check_tiff(file: IO[bytes]) -> None:
    """Refuse a TIFF whose first directory has an endless list in it, which Pillow would unpack while it opens the file.

    Raises:
        ValueError: saying so.
        struct.error: if the directory is cut short.
    """
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order and 43 in head[2:4]:  # BigTIFF
        start, number, entries = struct.unpack(f"{order}Q", head[8:16])[0], "Q", f"{order}HHQ8x"
    elif order and 42 in head[2:4]:
        start, number, entries = struct.unpack(f"{order}L", head[4:8])[0], "H", f"{order}HHL4x"
    else:
        return
    file.seek(start)
    (count,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    size = struct.calcsize(entries)
    listed = file.read(size * min(count, MAX_VALUES))
    for _, kind, values in struct.iter_unpack(entries, listed[: len(listed) // size * size]):
        if values > MAX_VALUES and kind not in (BYTES, TEXT, UNDEFINED):
            raise ValueError(f"a list of {values:,} values in its header")


def _reason(error: Exception) -> str:
    """What an exception says, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
