"""What was kept, as pictures for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..compare import Pruned
from ..viz.draw import scored, signed
from ..viz.figure import figure_file
from ..viz.legend import CUT, PADDED, Sign

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 560  # pixels of a panel's longer side


class Panel(NamedTuple):
    """The picture at one stage: what was kept, its scores and what they are (none before the first stage, or where all
    are the same), and the legend's entries."""

    kept: Image
    scores: Image | None
    scale: str
    caption: str
    signs: frozenset[Sign]


def panels(found: Pruned) -> tuple[list[Panel], str]:
    """The picture before the first stage and after each; if there is none, the reason."""
    look = found.look
    if look is None:
        return [], found.why_not
    if not look.stages:
        return [], found.report.samples[0].note or "nothing was dropped"
    whole, signs = signed(look, None, size=SIZE, clear=True)
    # "Kept" needs no explanation where everything is.
    first = frozenset(signs) if signs & {CUT, PADDED} else frozenset[Sign]()
    made = [Panel(whole, None, "", f"Before any stage: all {look.visual:,} visual tokens", first)]
    for i, stage in enumerate(look.stages):
        kept, signs = signed(look, i, size=SIZE, clear=True)
        caption = f"Stage {i + 1} of {len(look.stages)}, {stage.where}: kept {stage.said}"
        scores = scored(look, i, size=SIZE, clear=True)[0] if stage.told_apart else None
        made.append(Panel(kept, scores, stage.meaning.scores, caption, frozenset(signs)))
    return made, ""


def one_figure(found: Pruned, question: str, answers: Mapping[str, str]) -> bytes | None:
    """PNG of question, answers, savings, scores and stages in one strip; None if nothing was dropped."""
    if found.look is None or not found.look.stages:
        return None
    return figure_file(found.look, question, answers)


def one_stage(found: Pruned, picture: Image, number: int, size: int) -> tuple[Image, set[Sign]]:
    """What a stage kept, counted from the last if negative; the plain picture if it is unknown."""
    if found.look is None:
        return picture, set()
    return signed(found.look, number if found.look.stages else None, size=size, clear=True)
