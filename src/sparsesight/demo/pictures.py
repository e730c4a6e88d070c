"""What was kept, as pictures for the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

from ..budget import BEFORE
from ..commands.answering import Pruned
from ..commands.loading import Loaded
from ..errors import SparseSightError
from ..viz import Grid, kept_picture

if TYPE_CHECKING:
    from PIL.Image import Image


class Panel(NamedTuple):
    """A picture with what it shows."""

    picture: Image
    caption: str


def panels(loaded: Loaded, picture: Image, found: Pruned) -> tuple[list[Panel], str]:
    """One panel per stage; without any, why there is none."""
    sample = found.report.samples[0]
    if not found.kept:
        return [], sample.note or "nothing was dropped"
    try:
        grid = Grid.of(loaded.model.config, loaded.processor, sample.visual_tokens)
    except SparseSightError as error:
        return [], str(error)
    made = []
    for number, (kept, merged, layer) in enumerate(
        zip(found.kept, found.merged, found.layers, strict=True), 1
    ):
        where = "before the first layer" if layer == BEFORE else f"after layer {layer}"
        more = f" and {merged} merged" if merged else ""
        caption = (
            f"Stage {number} of {len(found.kept)}, {where}: {len(kept)}{more} of {sample.visual_tokens} kept"
        )
        made.append(Panel(kept_picture(picture, [kept], grid, [merged], [layer]), caption))
    return made, ""


def data_uri(picture: Image, width: int) -> str:
    """A picture inside a page, ``width`` pixels wide."""
    small = picture.copy()
    small.thumbnail((width, width))
    data = io.BytesIO()
    small.convert("RGB").save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
