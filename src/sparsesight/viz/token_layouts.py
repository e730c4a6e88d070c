"""The order of a picture's visual tokens: a few rules, one of which is named in each family's row.

Where a plane of pixels lies in the picture is measured (:mod:`.pixel_map`); a rule only states how tokens are ordered
over the planes. A family without a rule is refused, since a guessed picture would look just as plausible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SparseSightError
from ..families import FAMILIES, Layout, family_of, patch_size
from .patch_grid import View
from .pixel_map import Plane, measure

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class LayoutInput:
    """A picture of a prompt, as a rule sees it."""

    config: Any  # of the model
    processor: Any  # of pictures
    size: Size
    how: Mapping[str, Any]  # passed to the processor
    pictures: int = 1  # that are prepared together, where the family prepares several otherwise than one

    def planes(self, unfold: Callable[[Any], list[np.ndarray]]) -> tuple[Any, list[Plane]]:
        """What the processor says of a picture of that size, and its planes."""

        def process(picture: Image.Image) -> tuple[Any, list[np.ndarray]]:
            images: Any = picture if self.pictures == 1 else [[picture] * self.pictures]
            raw = {"do_normalize": False, "do_rescale": False, "return_tensors": "pt", **self.how}
            said = self.processor(images=images, **raw)
            return said, [np.asarray(plane, dtype=np.float32) for plane in unfold(said)]

        return measure(process, *self.size)


Rule = Callable[[LayoutInput], list[View]]


def views(given: LayoutInput) -> list[View]:
    """The views of one picture, their tokens counted from 0 in the order of the prompt.

    Raises:
        SparseSightError: for a family without a rule.
    """
    return rule_of(given.config)(given)


def rule_of(config: Any) -> Rule:
    """The rule of a model's family."""
    layout = family_of(config).layout
    if layout is None:
        raise SparseSightError(
            f"there is no picture of what was kept for {getattr(config, 'model_type', type(config).__name__)!r} yet: "
            f"which part of a picture its visual tokens stand for is known of {', '.join(drawn())}"
        )
    return RULES[layout]


def drawn(*layouts: Layout) -> list[str]:
    """The families whose pictures can be drawn, or those of them with one of these layouts."""
    return [name for name, family in FAMILIES.items() if family.layout in (layouts or RULES)]


# -- tiles of one size, tokens row by row, tile after tile ---------------------------------------------------------


def _tiles(given: LayoutInput) -> list[View]:
    cell = round(family_of(given.config).merge(given.config)) * patch_size(given.config)
    _, planes = given.planes(_stacked)
    made, before = [], 0
    for plane in planes:
        x, y = plane.columns(cell), plane.rows(cell)
        tokens = before + np.arange(len(y) * len(x)).reshape(len(y), len(x))
        before += tokens.size
        made.append(View.of(tokens, x, y))
    return _arranged(made, given.size)


def _stacked(said: Any) -> list[np.ndarray]:
    """The tiles of the first picture, [3, h, w] each."""
    pixels = said["pixel_values"]
    pixels = pixels[0] if pixels.ndim == 5 else pixels
    return list(pixels)


def _arranged(tiles: list[View], size: Size) -> list[View]:
    """Tiles as at most two views: those that see the whole picture, and the others put together."""
    if len(tiles) == 1:
        return tiles
    whole = [tile for tile in tiles if _is_whole(tile, size)]
    parts = [tile for tile in tiles if not _is_whole(tile, size)]
    made = [View.of(tile.tokens, tile.x, tile.y, "whole") for tile in whole]
    if not parts:
        return made
    cell = np.median([np.diff(tile.x).mean() for tile in parts])
    lefts, columns = _starts([tile.x for tile in parts], cell)
    tops, rows = _starts([tile.y for tile in parts], np.median([np.diff(tile.y).mean() for tile in parts]))
    if sorted(zip(tops, lefts, strict=True)) != [
        (r, c) for r in range(len(rows)) for c in range(len(columns))
    ]:
        return made + [View.of(t.tokens, t.x, t.y, f"tile {i + 1}") for i, t in enumerate(parts)]
    places = dict(zip(zip(tops, lefts, strict=True), parts, strict=True))
    tokens = np.block([[places[r, c].tokens for c in range(len(columns))] for r in range(len(rows))])
    together = View.of(tokens, np.concatenate(columns), np.concatenate(rows), "tiles")
    # In the order of their tokens.
    return sorted([*made, together], key=lambda view: int(view.tokens.min()))


def _starts(edges: list[np.ndarray], cell: float) -> tuple[list[int], list[np.ndarray]]:
    """Which column (or row) of tiles each tile is in, and the edges in each."""
    known: list[np.ndarray] = []
    for edge in sorted(edges, key=lambda e: float(e[0, 0])):
        if not known or edge[0, 0] - known[-1][0, 0] > 0.5 * cell:
            known.append(edge)
    place = [int(np.argmin([abs(edge[0, 0] - k[0, 0]) for k in known])) for edge in edges]
    return place, known


def _is_whole(view: View, size: Size) -> bool:
    """Whether a tile shows the whole picture, to within a patch."""
    left, top, right, bottom = view.box
    x, y = np.diff(view.x).mean(), np.diff(view.y).mean()
    return bool(left < x and top < y and right > size[0] - x and bottom > size[1] - y)


# -- the whole picture, then tiles whose padding is cut off, with a token behind each row --------------------------


def _anyres(given: LayoutInput) -> list[View]:
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    config, cell = given.config, patch_size(given.config)
    side = config.vision_config.image_size // cell
    _, planes = given.planes(_stacked)
    first = np.arange(side * side).reshape(side, side)
    whole = View.of(first, planes[0].columns(cell), planes[0].rows(cell), "whole")
    if len(planes) == 1:  # one token for the row that it is
        return [View.of(first, whole.x, whole.y, "", np.array([side * side]))]
    size = (given.size[1], given.size[0])
    high, wide = get_anyres_image_grid_shape(
        size, config.image_grid_pinpoints, config.vision_config.image_size
    )
    tiles = planes[1 : 1 + high * wide]
    # Tiles that hold nothing but padding cannot be measured; they are like their neighbours, one tile on.
    x = _along([tiles[c::wide] for c in range(wide)], side, cell, lambda p: (p.left, p.across, p.width))
    y = _along(
        [tiles[r * wide : (r + 1) * wide] for r in range(high)],
        side,
        cell,
        lambda p: (p.top, p.down, p.height),
    )
    place = np.arange(high * side * wide * side).reshape(1, high * side, wide * side)
    import torch

    left = unpad_image(torch.from_numpy(place), size)[0].numpy()
    y, x = y[left[:, 0] // (wide * side)], x[left[0] % (wide * side)]
    rows, columns = left.shape
    ratio = _shrunk(config, rows, columns, side)
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
        x, y = _even(x, columns), _even(y, rows)
    token = side * side + np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    return [whole, View.of(token[:, :-1], x, y, "tiles", token[:, -1])]


def _along(
    lines: list[list[Plane]], side: int, cell: int, read: Callable[[Plane], tuple[float, float, int]]
) -> np.ndarray:
    """Edges along one axis of the raster of tiles, from those tiles in which the picture can be seen."""
    found = [next((read(p) for p in line if np.isfinite(read(p)[0])), None) for line in lines]
    at, (start, step, length) = next((i, f) for i, f in enumerate(found) if f is not None)
    edges = []
    for i, measured in enumerate(found):
        begin, pace, _ = measured or (start + (i - at) * step * length, step, length)
        edge = begin + pace * cell * np.arange(side + 1)
        edges.append(np.stack((edge[:-1], edge[1:]), 1))
    return np.concatenate(edges)


def _shrunk(config: Any, rows: int, columns: int, side: int) -> float:
    """By how much LLaVA-OneVision shrinks its tiles, each way: they get no more tokens than so many tiles have."""
    most = str(getattr(config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
    return math.sqrt(rows * columns / (int(most) * side**2)) if most.isdigit() else 0.0


def _even(edges: np.ndarray, count: int) -> np.ndarray:
    edge = np.linspace(edges[0, 0], edges[-1, 1], count + 1)
    return np.stack((edge[:-1], edge[1:]), 1)


# -- one plane of any size, its patches merged ---------------------------------------------------------------------


def _one_plane(plane: Plane, cell: int, rows: int, columns: int) -> list[View]:
    x, y = plane.columns(cell)[:columns], plane.rows(cell)[:rows]
    return [View.of(np.arange(rows * columns).reshape(rows, columns), x, y)]


def _by_size(given: LayoutInput) -> list[View]:
    """Pixtral's tower: the plane may be padded; its size comes with it."""
    said, (plane,) = given.planes(_stacked)
    cell = patch_size(given.config) * getattr(given.config, "spatial_merge_size", 1)
    height, width = (int(x) for x in said["image_sizes"][0])
    return _one_plane(plane, cell, height // cell, width // cell)


def _by_grid(given: LayoutInput) -> list[View]:
    """Qwen2-VL's tower and its kin: rows of patches, square by square of those that are merged."""
    config = getattr(given.config, "thinker_config", given.config)
    patch, merge = patch_size(config), int(config.vision_config.spatial_merge_size)

    def unfold(said: Any) -> list[np.ndarray]:
        _, high, wide = (int(x) for x in said["image_grid_thw"][0])
        squares = np.asarray(said["pixel_values"], dtype=np.float32).reshape(
            high // merge, wide // merge, merge, merge, 3, -1, patch, patch
        )[:, :, :, :, :, 0]
        # [R, C, m, m, 3, p, p] -> [3, R m p, C m p]
        return [squares.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, high * patch, wide * patch)]

    said, (plane,) = given.planes(unfold)
    _, high, wide = (int(x) for x in said["image_grid_thw"][0])
    return _one_plane(plane, merge * patch, high // merge, wide // merge)


RULES: dict[Layout, Rule] = {
    "tiles": _tiles,
    "anyres": _anyres,
    "by_size": _by_size,
    "by_grid": _by_grid,
}
