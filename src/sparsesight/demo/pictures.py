"""What was kept, as pictures for the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

from ..commands.answering import Pruned
from ..viz import heatmap, overlay

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 560  # pixels of a panel's longer side


class Panel(NamedTuple):
    """The picture at one stage: what was kept, and the scores by which (None before any stage)."""

    kept: Image
    scores: Image | None
    caption: str


def panels(found: Pruned) -> tuple[list[Panel], str]:
    """The picture before any stage and after each; without any, why there is none."""
    look = found.look
    if look is None:
        return [], found.why_not
    if not look.stages:
        return [], found.report.samples[0].note or "nothing was dropped"
    whole = overlay(look, None, size=SIZE, caption=False)
    made = [Panel(whole, None, f"Before any stage: all {look.visual:,} visual tokens")]
    for i, stage in enumerate(look.stages):
        caption = f"Stage {i + 1} of {len(look.stages)}, {stage.where}: {stage.counts()} kept"
        kept = overlay(look, i, size=SIZE, caption=False)
        made.append(Panel(kept, heatmap(look, i, size=SIZE), caption))
    return made, ""


def last_stage(found: Pruned, size: int) -> str:
    """What the last stage kept, as a picture inside a page; "" if there is none."""
    if found.look is None or not found.look.stages:
        return ""
    data = io.BytesIO()
    overlay(found.look, size=size, caption=False).convert("RGB").save(data, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
