"""What was kept, as pictures for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..compare import Pruned
from ..viz import StageRecord, heatmap
from ..viz.draw import signed
from ..viz.legend import CENTRE, CUT, GONE, JOINED, PADDED, PATCH, ROW_END, Sign
from .cards import MARKS

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 560  # pixels of a panel's longer side
NAMES = {
    PATCH: "kept",
    ROW_END: "end",
    JOINED: "merged",
    CENTRE: "place",
    GONE: "dropped",
    CUT: "cut",
    PADDED: "padding",
}


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
    whole, signs = signed(look, None, size=SIZE)
    # An outline needs something to be outlined from.
    first = named(signs) if signs & {CUT, PADDED} else ()
    made = [Panel(whole, None, f"Before any stage: all {look.visual:,} visual tokens", first)]
    for i, stage in enumerate(look.stages):
        caption = f"Stage {i + 1} of {len(look.stages)}, {stage.where}: {counted(stage)}"
        kept, signs = signed(look, i, size=SIZE)
        scores = heatmap(look, i, size=SIZE, caption=False)
        made.append(Panel(kept, scores, caption, named(signs), score_marks(stage, signs)))
    return made, ""


def counted(stage: StageRecord) -> str:
    """``66 kept, 8 merged, of 576``, or ``66 of 576 kept``."""
    kept, merged, every = (int(x) for x in (stage.kept.sum(), stage.centre.sum(), stage.kept.size))
    return f"{kept:,} kept, {merged:,} merged, of {every:,}" if merged else f"{kept:,} of {every:,} kept"


def named(signs: Collection[Sign]) -> tuple[str, ...]:
    """The marks of the page for what was painted."""
    names = {NAMES[sign] for sign in signs}
    return tuple(name for name in MARKS if name in names)


def score_marks(stage: StageRecord, signs: Collection[Sign]) -> tuple[str, ...]:
    """The same of the scores of a stage."""
    found = {
        "kept": bool(stage.kept.any()),
        "score": True,
        "gone": bool(np.isnan(stage.score).any()),
        "cut": CUT in signs,
        "padding": PADDED in signs,
    }
    return tuple(name for name in MARKS if found.get(name))


def last_stage(found: Pruned, size: int) -> tuple[str, tuple[str, ...]]:
    """What the last stage kept, as a picture inside a page ("" if there is none), and the marks that occur on it."""
    if found.look is None or not found.look.stages:
        return "", ()
    picture, signs = signed(found.look, size=size)
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode(), named(signs)
