"""What was kept, as pictures for the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..commands.answering import Pruned
from ..viz import Look, Stage, heatmap, overlay
from ..viz.sheet import crops, pads
from .cards import MARKS

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 560  # pixels of a panel's longer side


class Panel(NamedTuple):
    """The picture at one stage: what was kept, and the scores by which (None before any stage); of both, which marks
    occur (names of :data:`.cards.MARKS`)."""

    kept: Image
    scores: Image | None
    caption: str
    marks: tuple[str, ...] = ()
    score_marks: tuple[str, ...] = ()


def panels(found: Pruned) -> tuple[list[Panel], str]:
    """The picture before any stage and after each; without any, why there is none."""
    look = found.look
    if look is None:
        return [], found.why_not
    if not look.stages:
        return [], found.report.samples[0].note or "nothing was dropped"
    whole = overlay(look, None, size=SIZE, caption=False)
    made = [Panel(whole, None, f"Before any stage: all {look.visual:,} visual tokens", marks(look, None))]
    for i, stage in enumerate(look.stages):
        caption = f"Stage {i + 1} of {len(look.stages)}, {stage.where}: {counted(stage)}"
        kept = overlay(look, i, size=SIZE, caption=False)
        scores = heatmap(look, i, size=SIZE)
        made.append(Panel(kept, scores, caption, marks(look, stage), score_marks(look, stage)))
    return made, ""


def counted(stage: Stage) -> str:
    """``66 kept, 8 merged, of 576``, or ``66 of 576 kept``."""
    kept, merged, every = (int(x) for x in (stage.kept.sum(), stage.centre.sum(), stage.kept.size))
    return f"{kept:,} kept, {merged:,} merged, of {every:,}" if merged else f"{kept:,} of {every:,} kept"


def marks(look: Look, stage: Stage | None) -> tuple[str, ...]:
    """What is to be seen on the overlay of a stage; None is the picture before any."""
    cut, padded = any(crops(look)), any(pads(look))
    found = {
        "kept": cut or padded,
        "cut": cut,
        "padding": padded,
    }  # an outline needs something to be outlined from
    if stage is not None:
        found |= {
            "kept": bool(stage.kept.any()),
            "merged": bool(stage.merged.any()),
            "place": bool((stage.centre & stage.merged).any()),
            "dropped": bool((~stage.kept & ~stage.merged).any()),
        }
    return tuple(name for name in MARKS if found.get(name))


def score_marks(look: Look, stage: Stage) -> tuple[str, ...]:
    """The same of the scores."""
    found = {
        "kept": bool(stage.kept.any()),
        "score": True,
        "gone": bool(np.isnan(stage.score).any()),
        "cut": any(crops(look)),
        "padding": any(pads(look)),
    }
    return tuple(name for name in MARKS if found.get(name))


def last_marks(found: Pruned) -> tuple[str, ...]:
    """Those of :func:`last_stage`."""
    look = found.look
    return () if look is None or not look.stages else marks(look, look.stages[-1])


def last_stage(found: Pruned, size: int) -> str:
    """What the last stage kept, as a picture inside a page; "" if there is none."""
    if found.look is None or not found.look.stages:
        return ""
    data = io.BytesIO()
    overlay(found.look, size=size, caption=False).convert("RGB").save(data, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
