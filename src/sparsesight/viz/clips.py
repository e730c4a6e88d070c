"""Maps visual tokens to patches of a clip's frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import SparseSightError
from ..families import FAMILIES, family_of, patch_size
from .patch_grid import View
from .pixel_map import measure
from .token_layouts import drawn

if TYPE_CHECKING:
    from ..hf.sparsified import Sparsified

Frames = Sequence[Image.Image]


def clip_views(
    run: Sparsified, processor: Any, inputs: Mapping[str, Any] | None, sample: int, clips: Sequence[Frames]
) -> list[list[View]]:
    """The views of every clip of a sample, one for each frame (or for those that share their patches); the tokens of
    each clip are counted from 0.

    Raises:
        SparseSightError: a family whose clips are not known, or missing inputs that hold their grids.
    """
    if not clips:
        return []
    config = run.model.config
    family = family_of(config)
    if family.layout == "by_grid":
        return _grids(run, config, inputs, sample, clips)
    if not family.clips_drawn:
        known = ", ".join([*(name for name, row in FAMILIES.items() if row.clips_drawn), *drawn("by_grid")])
        kind = getattr(config, "model_type", "")
        raise SparseSightError(
            f"there is no picture of clips for {kind!r} yet: which part of a frame its visual tokens stand for is "
            f"known of {known}"
        )
    told = _told(run, sample, clips)
    return [_frames(config, processor, *each) for each in zip(clips, told, strict=True)]


def _told(run: Sparsified, sample: int, clips: Sequence[Frames]) -> list[list[int]]:
    """Visual tokens of each frame of each clip, from the report."""
    told = [clip for clip in run.report.samples[sample].clips if clip.kind == "video"]
    if len(told) == len(clips) and all(clip.frames_known for clip in told):
        return [list(clip.frames) for clip in told]
    raise SparseSightError(
        f"image: it has {len(clips)} clips, but the prompt had {len(told)} whose frames are known"
    )


def _grids(
    run: Sparsified, config: Any, inputs: Mapping[str, Any] | None, sample: int, clips: Sequence[Frames]
) -> list[list[View]]:
    """Frames are stretched to a grid that comes with the prompt; two or more may share their patches."""
    grids = None if inputs is None else inputs.get("video_grid_thw")
    if grids is None:
        raise SparseSightError("inputs: clips need the video_grid_thw that the processor made; pass inputs")
    videos = [sum(clip.kind == "video" for clip in told.clips) for told in run.report.samples]
    own = grids.tolist()[sum(videos[:sample]) :][: videos[sample]]
    # Some families put text between frames, and the report counts each part as a clip.
    own = own if len(own) == len(clips) else grids.tolist() if len(grids) == len(clips) else []
    if len(own) != len(clips):
        raise SparseSightError(
            f"image: it has {len(clips)} clips, but inputs['video_grid_thw'] tells of {len(grids)}"
        )
    merge = int(config.vision_config.spatial_merge_size)
    made = []
    for frames, (times, high, wide) in zip(clips, own, strict=True):
        rows, columns = high // merge, wide // merge
        views = []
        for time in range(times):
            shown = _shown(time, times, len(frames), getattr(config.vision_config, "temporal_patch_size", 1))
            name = f"frame {shown[0] + 1}" if len(shown) == 1 else f"frames {shown[0] + 1}-{shown[-1] + 1}"
            tokens = time * rows * columns + np.arange(rows * columns).reshape(rows, columns)
            width, height = frames[shown[0]].size
            x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
            views.append(View.of(tokens, _pairs(x), _pairs(y), name, frame=shown[0]))
        made.append(views)
    return made


def _shown(time: int, times: int, frames: int, together: int) -> range:
    """The frames that share the patches of one of ``times`` steps."""
    if times == -(-frames // together):  # the last one is repeated where it has no other
        return range(time * together, min((time + 1) * together, frames))
    first = min(time * frames // times, frames - 1)  # the processor took some of the frames
    return range(first, max((time + 1) * frames // times, first + 1))


def _frames(config: Any, processor: Any, frames: Frames, tokens: Sequence[int]) -> list[View]:
    """Each frame is a square of tokens, cut out of it as the video processor does."""
    videos = getattr(processor, "video_processor", None)
    if videos is None:
        raise SparseSightError(f"processor={type(processor).__name__}: it has no video_processor")

    def process(picture: Image.Image) -> tuple[Any, list[np.ndarray]]:
        clip = np.stack([np.asarray(picture)] * 2)
        said = videos(videos=[clip], do_normalize=False, do_rescale=False, return_tensors="pt")
        pixels = np.asarray(said["pixel_values_videos"], dtype=np.float32)
        return said, [pixels.reshape(-1, *pixels.shape[-3:])[0]]

    _, (plane,) = measure(process, *frames[0].size)
    family, patch = family_of(config), patch_size(config)
    views, before = [], 0
    for number, count in enumerate(tokens):
        first = family.before_frame
        last = family.after_clip if number == len(tokens) - 1 else 0
        side = math.isqrt(count - first - last)
        if side**2 != count - first - last:
            raise SparseSightError(
                f"image: frame {number + 1} has {count} visual tokens, which do not form a square of patches"
            )
        cell = plane.width // patch * patch / side  # patches may be pooled
        start = ((plane.left, plane.across), (plane.top, plane.down))
        x, y = (begin + pace * cell * np.arange(side + 1) for begin, pace in start)
        frame = min(number * len(frames) // len(tokens), len(frames) - 1)
        place = before + first + np.arange(side * side).reshape(side, side)
        views.append(
            View.of(place, _pairs(x), _pairs(y), f"frame {frame + 1}", frame=frame, silent=first + last)
        )
        before += count
    return views


def _pairs(edge: np.ndarray) -> np.ndarray:
    """The edges of each of neighbouring columns or rows."""
    return np.stack((edge[:-1], edge[1:]), 1)
