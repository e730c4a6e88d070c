"""Frames of a clip, through PyAV, which comes with lmms-eval."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from ..errors import SparseSightError


def frame_indices(length: int, count: int) -> list[int]:
    """``count`` frames of ``length``, evenly from the first to the last; all if there are no more.

    Raises:
        SparseSightError: for a clip without frames.
    """
    if length < 1:
        raise SparseSightError("the clip has no frames: copy or download it again")
    if count >= length:
        return list(range(length))
    if count == 1:
        return [length // 2]
    return [round(i * (length - 1) / (count - 1)) for i in range(count)]


def sample_frames(path: Any, count: int) -> list[Image.Image]:
    """``count`` frames of a video file, evenly spaced, as RGB pictures.

    Raises:
        SparseSightError: missing or unreadable file; the message names it.
    """
    import av

    name = os.fspath(path)
    try:
        # Counted by decoding: containers state wrong numbers of frames, or none.
        with av.open(name) as clip:
            length = sum(1 for _ in clip.decode(video=0))
        chosen = frame_indices(length, count)
        with av.open(name) as clip:
            wanted = set(chosen)
            found = [f.to_image() for i, f in enumerate(clip.decode(video=0)) if i in wanted]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise SparseSightError(f"clip {name!r} cannot be read ({error}): check the file") from error
    return found
