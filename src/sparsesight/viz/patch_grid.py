"""A view of a picture: a grid of patches with the visual token of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class View:
    """One view that a model has of a picture or a frame: rows and columns of patches, each of them a visual token.

    Attributes:
        name: such as "whole" or "tiles"; empty if it is the only view.
        tokens: index among the sample's visual tokens.
        x, y: left and right, upper and lower edge of every column and row, in pixels of the picture. Parts outside of
            the picture are padding that the processor added.
        ends: tokens that end each row and represent no part of the picture, as in LLaVA-NeXT; may be empty.
        frame: the frame of a clip that it shows.
        silent: further tokens that represent no part of it and are not drawn, such as a class token.
    """

    name: str
    tokens: Int[np.ndarray, "rows columns"]
    x: Float[np.ndarray, "columns 2"]
    y: Float[np.ndarray, "rows 2"]
    ends: Int[np.ndarray, " ends"]
    frame: int = 0
    silent: int = 0

    @classmethod
    def of(
        cls,
        tokens: Int[np.ndarray, "rows columns"],
        x: Float[np.ndarray, "columns 2"],
        y: Float[np.ndarray, "rows 2"],
        name: str = "",
        ends: Int[np.ndarray, " ends"] | None = None,
        frame: int = 0,
        silent: int = 0,
    ) -> View:
        ends = np.zeros(0, dtype=np.int64) if ends is None else ends
        return cls(
            name, np.asarray(tokens, dtype=np.int64), np.asarray(x), np.asarray(y), ends, frame, silent
        )

    @property
    def size(self) -> int:
        """Number of its visual tokens."""
        return self.tokens.size + self.ends.size + self.silent

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def columns(self) -> int:
        return self.tokens.shape[1]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of the view, in pixels of the picture."""
        return tuple(  # type: ignore[return-value]
            float(edge) for edge in (self.x.min(), self.y.min(), self.x.max(), self.y.max())
        )

    def after(self, tokens: int) -> View:
        """The same view after ``tokens`` other visual tokens."""
        return replace(self, tokens=self.tokens + tokens, ends=self.ends + tokens)

    def cells(self) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
        """Every token with its left, upper, right and lower edge, those that end rows beside the last column."""
        for row, (top, bottom) in enumerate(self.y):
            for column, (left, right) in enumerate(self.x):
                yield int(self.tokens[row, column]), (left, top, right, bottom)
        right, width = self.x.max(), self.end_width
        for token, (top, bottom) in zip(self.ends, self.y[-len(self.ends) :], strict=False):
            yield int(token), (right, top, right + width, bottom)

    @property
    def end_width(self) -> float:
        """Drawn width of the tokens that end rows."""
        return float(np.diff(self.x).mean()) if self.ends.size else 0.0

    def spread(self, values: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Of ``values`` per visual token of the sample, this view's as [rows, columns]."""
        inside = self.tokens < len(values)
        return np.where(inside, values[np.where(inside, self.tokens, 0)], fill)
