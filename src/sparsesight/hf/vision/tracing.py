"""Carries values of a vision tower's rows through the modules that make new rows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..linear import with_gradients
from .row_hash import find_rows, merged_rows, row_hashes, signature

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


_FEW = 64  # groups of rows that show how all are made


@dataclass(frozen=True)
class TracedRows:
    """Rows, known by their bits, and what they got of their tower."""

    number: Int[Tensor, " n"]  # see `row_hashes`
    attention: Float[Tensor, " n"]  # -inf: a class token, which is no patch
    key: Float[Tensor, "n d"]
    embedding: Float[Tensor, "n p"]  # in the space of a text tower; of width 0 without one
    known: Bool[Tensor, " n"]  # False: it is not known of which patches this row is made

    @staticmethod
    def joined(parts: list[TracedRows], device: torch.device | None = None) -> TracedRows:
        """All rows one after the other, on one device."""
        columns = zip(*((x.number, x.attention, x.key, x.embedding, x.known) for x in parts), strict=True)
        return TracedRows(*(torch.cat([x.to(device or x.device) for x in column]) for column in columns))

    def means(self, number: Int[Tensor, " m"], place: Int[Tensor, "m k"], several: bool) -> TracedRows:
        """New rows, each with the mean of those that it is made of.

        Args:
            number: of the new rows.
            place: of the rows here that each is made of, -1 where it is not known which.
            several: whether one known row is enough.
        """
        there = (place >= 0) & self.known[place]
        count = there.sum(1).clamp(min=1)
        attention = torch.where(there, self.attention[place], 0).sum(1) / count
        key, embedding = (
            torch.where(there[..., None], x[place], 0).sum(1) / count[:, None]
            for x in (self.key, self.embedding)
        )
        return TracedRows(number, attention, key, embedding, there.any(1) if several else there.all(1))


class RowTracer:
    """A module that makes new rows of rows.

    Args:
        module: called with one tensor of features, [..., c], or [b, c, h, w] if it is a convolution.
        several: whether the features of several layers lie side by side in a row, of which one is known.
    """

    def __init__(self, module: nn.Module, several: bool) -> None:
        self.module, self.several = module, several
        self.groups: dict[Any, Tensor | None] = {}  # see `_groups`

    def carry(
        self,
        seen: TracedRows,
        width: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        dtype: torch.dtype | None,
    ) -> tuple[TracedRows, int] | None:
        """The rows of the output, and their width; None if it was called with something else than features.

        A row that is made of several rows, or in which several lie side by side, gets their mean.

        Args:
            seen: the rows before it.
            width: of those rows.
            args: of the module.
            kwargs: of the module.
            output: of the module.
            dtype: that the rows will be given before they are met again, None if they stay as they are.
        """
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        output = output[0] if isinstance(output, tuple) else output
        if given is None or not isinstance(output, Tensor):
            return None
        x, rows = self._rows(given.detach()), self._rows(output.detach())
        flat = rows.reshape(-1, rows.shape[-1])
        number = row_hashes(flat if dtype is None else flat.to(dtype))
        groups = None if x.shape[-1] % width else self._groups(given, x, rows, args, kwargs)
        if groups is None:
            nothing = seen.attention.new_zeros(len(number))
            key, embedding = (x.new_zeros(len(number), x.shape[1]) for x in (seen.key, seen.embedding))
            return TracedRows(number, nothing, key, embedding, nothing.bool()), rows.shape[-1]
        place = find_rows(seen.number, row_hashes(x.reshape(-1, width)))
        place = place.view(-1, x.shape[-1] // width)[groups].flatten(1)
        return seen.means(number, place, self.several), rows.shape[-1]

    def _rows(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1) if isinstance(self.module, nn.Conv2d) else x

    def _groups(
        self, given: Tensor, x: Tensor, rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Int[Tensor, "out k"] | None:
        """Which rows of the input each row of the output is made of; the module is asked once for each size."""
        more = [v for v in (*args, *kwargs.values()) if v is not given and v is not None]
        if any(isinstance(v, Tensor) and v.is_floating_point() for v in more):
            return None  # it puts together the features of two towers
        each = not more and x.ndim > 2 and rows.ndim > 2 and x.shape[0] == rows.shape[0]  # picture by picture
        pictures = x.shape[0] if each else 1
        asked = x[:1] if each else x
        total, n, m = rows[..., 0].numel(), asked[..., 0].numel(), rows[..., 0].numel() // pictures
        # A module that is told nothing but rows, and merges none or knows no pictures, cannot know a grid: if it takes
        # neighbours of a few rows, it does so of all.
        plain = not more and n % m == 0 and (n == m or x.ndim == 2)
        rule = ("neighbours", n // m) if plain else ()
        key = rule if rule in self.groups else (*asked.shape, m, *(signature(v) for v in more))
        if plain and key not in self.groups and self._takes_neighbours(given, asked, n // m, args, kwargs):
            key = rule
            self.groups[rule] = torch.arange(n // m)[None]
        if key not in self.groups:
            found = self._ask(given, asked, args, kwargs)
            self.groups[key] = None if found is None or len(found) != m else torch.tensor(found)
        group = self.groups[key]
        if group is None:
            return None
        times, step = (total, n // m) if key == rule else (pictures, n)
        start = torch.arange(times, device=x.device) * step
        return (start[:, None, None] + group.to(x.device)).flatten(0, 1)

    def _takes_neighbours(
        self, given: Tensor, asked: Tensor, size: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Whether it merges ``size`` rows that follow one another, as far as a few of them show."""
        part = asked[..., : _FEW * size, :]
        try:
            found = self._ask(given, part, args, kwargs)
        except Exception:  # it wants the rows of whole pictures
            return False
        count = part[..., 0].numel()
        return count > size and found == [list(range(i, i + size)) for i in range(0, count, size)]

    def _ask(
        self, given: Tensor, asked: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[list[int]] | None:
        convolved = isinstance(self.module, nn.Conv2d)

        def run(x: Tensor) -> Tensor:
            x = x.movedim(-1, 1) if convolved else x
            # Its forward, past hooks: nobody is to take this for a call.
            out = self.module.forward(
                *(x if v is given else v for v in args),
                **{k: x if v is given else v for k, v in kwargs.items()},
            )
            return self._rows(out[0] if isinstance(out, tuple) else out)

        with with_gradients(self.module):
            return merged_rows(run, asked)
