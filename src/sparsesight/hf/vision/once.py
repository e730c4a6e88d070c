"""Encodes equal pictures, tiles and frames once.

A vision tower that encodes each tile, picture or frame without looking at the others gives equal features for equal
pixels. Of what is equal bit for bit, the tower gets one; its output is then repeated for the others, so that everything
behind the tower sees what it always sees. What a family's tower encodes alone is in its row (``Family.encoded_alone``).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedModelError
from ...families import Alone, family_of
from ..install import Installation
from ..model_parts import ModelParts
from .row_hash import first_equal
from .towers import PROJECTORS

COLOURS = 3


@dataclass
class Encoded:
    """How many tiles, pictures or frames the vision tower was given, and how many it encoded."""

    given: int = 0
    encoded: int = 0


@dataclass(frozen=True)
class Repeats:
    """What of a tower's input is equal.

    Attributes:
        sizes: rows of the input of each of those that are encoded.
        of: for each of those that were given, which of the encoded it equals.
        packed: whether the rows of all of them are one sequence.
    """

    sizes: list[int]
    of: list[int]
    packed: bool = False

    def repeated(self, x: Tensor) -> Tensor:
        """A tensor of the tower's output, with its rows repeated as they would be without us.

        Raises:
            UnsupportedModelError: if it has not the same number of rows for each row of the input.
        """
        axis = int(self.packed and x.ndim > 2 and len(x) == 1)
        rows, total = x.shape[axis], sum(self.sizes)
        if any(rows * size % total for size in self.sizes):
            raise UnsupportedModelError(
                f"encode_once=True: the vision tower makes {rows} rows of {total}, and it is not known which picture "
                "each belongs to; leave encode_once out for this model"
            )
        ends = [rows * end // total for end in accumulate(self.sizes, initial=0)]
        parts = [torch.arange(ends[i], ends[i + 1]) for i in self.of]
        return x.index_select(axis, torch.cat(parts).to(x.device))

    def output(self, x: Any) -> Any:
        """The same of a whole output."""
        if isinstance(x, Tensor):
            return self.repeated(x) if x.ndim else x
        if isinstance(x, list | tuple):
            return type(x)(map(self.output, x))
        if isinstance(x, dict):  # transformers' outputs as well
            # They are made for this call, so that they may be changed.
            for name, value in x.items():
                x[name] = self.output(value)
        return x


class EncodeOnce:
    """Encodes what is equal once, in all vision towers of a model.

    Args:
        parts: of the model.
    """

    def __init__(self, parts: ModelParts) -> None:
        self.alone = family_of(parts.model.config).encoded_alone
        self.count = Encoded()
        self.local = threading.local()
        children = dict(parts.base.named_children()) if self.alone else {}
        self.towers = [
            child
            for name, child in children.items()
            if name not in PROJECTORS and all(x is not parts.decoder for x in child.modules())
        ]

    def install(self, added: Installation) -> None:
        """Put hooks around the towers; they are ``added``, and go with it."""
        for tower in self.towers:
            added.hook(tower, "forward_pre", self._enter, with_kwargs=True)
            added.hook(tower, "forward", self._leave)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.local.repeats = None
        if module.training:  # dropout makes equal pictures unequal
            return None
        given = {id(x): x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)}
        tensors = list(given.values())
        found = tile_repeats(tensors) if self.alone == "tiles" else grid_repeats(tensors, self.alone)
        if found is None:
            return None
        repeats, fewer = found
        self.count.given += len(repeats.of)
        self.count.encoded += len(repeats.sizes)
        if len(repeats.of) == len(repeats.sizes):
            return None
        self.local.repeats = repeats
        new = dict(zip(given, fewer, strict=True))
        return tuple(new.get(id(x), x) for x in args), {k: new.get(id(x), x) for k, x in kwargs.items()}

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        repeats, self.local.repeats = getattr(self.local, "repeats", None), None
        return None if repeats is None else repeats.output(output)


Found = tuple[Repeats, list[Tensor]] | None


def tile_repeats(given: list[Tensor]) -> Found:
    """Equal entries of pixels [n, ..., 3, h, w] and of all that comes with them [n, ...], and the arguments without
    repeats; None if these are no such pixels.
    """
    if not given or given[0].ndim < 4 or given[0].shape[-3] != COLOURS:
        return None
    if any(x.ndim == 0 or len(x) != len(given[0]) for x in given):
        return None
    first = first_equal(*given).tolist()
    kept = sorted(set(first))
    index = torch.tensor(kept, device=given[0].device)
    fewer = [x[index.to(x.device)] for x in given] if len(kept) < len(first) else given
    return Repeats([1] * len(kept), [kept.index(i) for i in first]), fewer


def grid_repeats(given: list[Tensor], alone: Alone) -> Found:
    """Equal pictures, or frames, of patches [p, ...] in one sequence, given their grids (t, h, w) [n, 3].

    Returns:
        What is equal, and the arguments without repeats; None if these are no patches with grids.
    """
    grids = next((x for x in given if x.ndim == 2 and x.shape[1] == 3 and not x.is_floating_point()), None)
    if grids is None or given[0] is grids:
        return None
    axis = int(given[0].ndim > 3 and len(given[0]) == 1)
    sizes = [(t, h, w) for t, h, w in grids.tolist()]
    others = [x for x in given[1:] if x is not grids]
    if given[0].shape[axis] != sum(t * h * w for t, h, w in sizes) or any(
        x.ndim != 1 or len(x) != len(grids) for x in others
    ):
        return None
    if alone == "frames":
        units = [(i, (1, h, w)) for i, (t, h, w) in enumerate(sizes) for _ in range(t)]
    else:
        units = list(enumerate(sizes))
    lengths = [t * h * w for _, (t, h, w) in units]
    starts = list(accumulate(lengths, initial=0))
    kinds: dict[Any, list[int]] = {}
    for i, (picture, size) in enumerate(units):
        kinds.setdefault((size, *(x[picture].item() for x in others)), []).append(i)
    patches, first = given[0].movedim(axis, 0), list(range(len(units)))
    for same in kinds.values():
        if len(same) > 1:
            rows = torch.stack([patches[starts[i] : starts[i + 1]] for i in same])
            for i, j in zip(same, first_equal(rows).tolist(), strict=True):
                first[i] = same[j]
    kept = sorted(set(first))
    repeats = Repeats([lengths[i] for i in kept], [kept.index(i) for i in first], packed=True)
    if len(kept) == len(units):
        return repeats, given
    of = torch.tensor([units[i][0] for i in kept])
    new = {
        id(given[0]): torch.cat([patches[starts[i] : starts[i + 1]] for i in kept]).movedim(0, axis),
        id(grids): torch.tensor([units[i][1] for i in kept], dtype=grids.dtype, device=grids.device),
        **{id(x): x[of.to(x.device)] for x in others},
    }
    return repeats, [new[id(x)] for x in given]
