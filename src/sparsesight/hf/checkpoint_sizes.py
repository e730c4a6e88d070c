"""Refuses a checkpoint whose config describes far more than its files hold, or that scales pictures to a wall: both
would take all memory or minutes before anything fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..checkpoint_limits import bounded_memory
from ..errors import SparseSightError, brief

SPARE = 2**28  # elements of a model that no file holds, such as tables of positions
PACKED = 8  # weights of one byte of a quantised checkpoint
EDGE = 4096  # pixels; the largest edge of any processor in transformers is 3200
EDGES = r"(height|width|edge|size|pinpoints)$"
FACTOR = 256  # of what edges are rounded up to multiples of
FACTORS = r"(patch_size|merge_size|pooling_kernel_size|divisor|size_factor|divisibility)$"


def check_built_size(build: Callable[[], Any], files: Iterable[Path], title: str) -> None:
    """Refuse a config that describes more weights than its files hold, which loading would draw at random.

    Args:
        build: makes the model; it is called so that no memory is taken for its weights.
        files: the checkpoint's ``*.safetensors``; nothing is checked without any.
        title: what messages call the checkpoint.

    Raises:
        SparseSightError: naming both sizes.
    """
    files = list(files)
    if not files:  # loading says so
        return
    import torch
    from transformers.initialization import no_init_weights

    with bounded_memory(), torch.device("meta"), no_init_weights():
        model = build()
        count = sum(tensor.numel() for part in (model.parameters(), model.buffers()) for tensor in part)
    held = sum(file.stat().st_size for file in files)
    packed = getattr(model.config, "quantization_config", None) is not None
    if count > held * (PACKED if packed else 1) + SPARE:
        raise SparseSightError(
            f"{title}: its config.json describes {count:,} weights, more than its safetensors files of {held:,} bytes "
            "can hold: use files that belong together"
        )


def check_picture_sizes(processor: Any, title: str) -> None:
    """Refuse a processor that scales, pads or crops pictures to edges of more than 4096 pixels.

    Args:
        processor: of transformers, with an ``image_processor`` and perhaps a ``video_processor``.
        title: what messages call the checkpoint.

    Raises:
        SparseSightError: naming the setting and the limit.
    """
    for part in filter(None, (getattr(processor, f"{kind}_processor", None) for kind in ("image", "video"))):
        # Some processors take both edges of `size` as the least and the largest area; their own defaults tell.
        default = dict(getattr(type(part), "size", None) or {})
        areas = (default.get("longest_edge") or 0) > EDGE
        for name, value in _numbers(part.to_dict()):
            most = FACTOR if re.search(FACTORS, name) else EDGE if re.search(EDGES, name) else None
            if name == "min_pixels" or (areas and name == "shortest_edge"):
                most = EDGE**2
            elif areas and name == "longest_edge":
                most = None  # a picture is scaled down to it, never up
            if most is not None and value > most:
                raise SparseSightError(
                    f"{title}: its image processor has {name}={brief(value)}, more than the limit of {most:,}: correct "
                    "its preprocessor_config.json or processor_config.json"
                )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in nested dicts and lists, each with the nearest name."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(each, str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each, name)
    elif isinstance(value, int | float):
        yield name, value
