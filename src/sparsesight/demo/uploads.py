"""Pictures that somebody sends: bounded in bytes and pixels, and whatever is wrong with one is a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SparseSightError
from ..images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 25_000_000  # decoded, 75 MB


def read_upload(path: str | os.PathLike[str] | None) -> Image:
    """The picture in an uploaded file.

    Raises:
        SparseSightError: no file, too many bytes or pixels, or what :func:`sparsesight.images.open_image` refuses. Of
            the path only the file's name is told.
    """
    if path is None:
        raise SparseSightError("there is no picture: upload one, or choose an example")
    file = Path(path)
    try:
        size = file.stat().st_size
    except OSError:
        raise SparseSightError("the picture is no longer on the server: upload it again") from None
    if size > MAX_BYTES:
        raise SparseSightError(
            f"{file.name!r} has {size / 2**20:.1f} MB, more than the limit of {MAX_BYTES // 2**20} MB: scale it down "
            "first"
        )
    try:
        return open_image(file, MAX_PIXELS)
    except SparseSightError as error:
        raise SparseSightError(str(error).replace(repr(os.fspath(path)), repr(file.name))) from None
