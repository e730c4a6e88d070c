"""Facts without tensors: about a region, the visual tokens that are scored together, and about a stage's scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

AFTER, BEFORE_PICTURE, NOTHING = "after the picture", "before the picture", "no text"


@dataclass(frozen=True)
class RegionFacts:
    """Facts about a region.

    Attributes:
        turn: number of its turn or document in the prompt, from 0.
        text: number of scoring text tokens.
        where: their position: :data:`AFTER` the picture, :data:`BEFORE_PICTURE`, or :data:`NOTHING` if there are none.
    """

    turn: int
    text: int
    where: str


class Meaning(NamedTuple):
    """What the scores of a stage are, and which tokens it keeps, in a few words for pictures.

    Attributes:
        scores: such as ``similarity to the question``.
        kept: empty for those with the largest scores.
    """

    scores: str = "scores"
    kept: str = ""


UNSAID = Meaning()
