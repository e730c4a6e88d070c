"""Facts about a region, the visual tokens that are scored together, without tensors."""

from __future__ import annotations

from dataclasses import dataclass

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
