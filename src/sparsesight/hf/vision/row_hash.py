"""Finds rows of one tensor in another bit for bit, and which rows a projector merges.

Between a vision tower and the language model, families drop, reorder, tile, pad and group rows, each in its own way.
None of that is modelled here: a row is recognised by its bits, and the gradient of a module shows which of its input
rows an output row comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 21  # numbers of 8 bytes that are held at once
# Of the length of a gradient: two ways of computing it differ by less, two different ones by more.
_SAME = 1e-2


def row_hashes(x: Tensor) -> Int[Tensor, " n"]:
    """A 64-bit number [n] (int64) for every row of ``x`` [n, c]: equal for rows of equal bits.

    Rows that differ in one bit differ in their numbers for all but 2 ** -32 of the weights, which are fixed; what
    is summed is whole numbers, so no order of summation and no device changes it.
    """
    words = x.detach().contiguous().view(_WORDS[x.element_size()])
    weight = _weights(x.shape[1]).to(x.device)
    step = max(1, _CHUNK // max(1, x.shape[1]))
    sums = [(part.long() * weight).sum(1) for part in words.split(step)]
    return torch.cat(sums) if sums else weight.new_zeros(0)


@lru_cache(maxsize=16)
def _weights(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    high, low = (torch.randint(1 << 32, (width,), generator=generator) for _ in range(2))
    return (high << 32) + (low | 1)  # odd: no word is multiplied away


def first_equal(*parts: Tensor) -> Int[Tensor, " n"]:
    """For each of ``n`` entries the first one that equals it bit for bit, possibly itself.

    Args:
        parts: what belongs to an entry, each [n, ...].
    """
    rows = [x.detach().reshape(len(x), -1).contiguous() for x in parts]
    number = sum(
        (row_hashes(x) * (2 * i + 1) for i, x in enumerate(rows)), rows[0].new_zeros((), dtype=torch.long)
    )
    first = (number[:, None] == number).long().argmax(1)
    words = [x.view(_WORDS[x.element_size()]) for x in rows]
    same = torch.stack([(x == x[first]).all(1) for x in words]).all(0)  # other bits may have an equal number
    return torch.where(same, first, torch.arange(len(first), device=first.device))


def find_rows(known: Int[Tensor, " n"], wanted: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Where each of the ``wanted`` numbers is among the ``known``, -1 if nowhere.

    Equal ones are paired in their order (the same picture twice), and the last of them serves all that are left.
    """
    if not known.numel() or not wanted.numel():
        return torch.full_like(wanted, -1)
    order = known.argsort(stable=True)
    sorted_known = known[order]
    first = torch.searchsorted(sorted_known, wanted)
    count = torch.searchsorted(sorted_known, wanted, right=True) - first
    by_number = wanted.argsort(stable=True)
    sorted_wanted = wanted[by_number]
    turn = torch.arange(len(wanted), device=wanted.device) - torch.searchsorted(sorted_wanted, sorted_wanted)
    turn = torch.empty_like(turn).scatter_(0, by_number, turn)
    place = first + torch.minimum(turn, (count - 1).clamp(min=0))
    return torch.where(count > 0, order[place.clamp(max=len(known) - 1)], -1)


def merged_rows(run: Callable[[Tensor], Tensor], x: Tensor) -> list[list[int]] | None:
    """Which rows of ``x`` each row of ``run(x)`` is computed from, if every row of ``x`` goes into one at most.

    The gradient tells: each row of the output gets a number, and for every bit of that number the gradient of the
    rows that have it is taken. A row of ``x`` that goes into one row gets all of its gradient or nothing, and so
    spells that row's number; anything between shows a row that goes into several. It costs one forward pass and as
    many backward passes as the number of rows has bits.

    Args:
        run: a module, [..., c] -> [..., d].
        x: [..., c]; what it holds matters only in so far as no gradient vanishes.

    Returns:
        For each row of the output the rows of ``x``, ascending; None if rows are mixed in another way (attention, a
        resampler), or in groups of different sizes.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        y = run(x)
        y = y.reshape(-1, y.shape[-1])
        direction = torch.randn(y.shape[1], generator=torch.Generator().manual_seed(0)).to(y)
        along = (y * direction).sum(1)  # not the plain sum: a normalisation would have no gradient of it

        def gradient(of: Bool[Tensor, " out"]) -> Float[Tensor, "rows c"]:
            (found,) = torch.autograd.grad(along, x, of.to(along), retain_graph=True)
            return found.reshape(-1, x.shape[-1]).float()

        try:
            number = torch.arange(len(y), device=y.device)
            whole = gradient(torch.ones_like(number))
            length = whole.norm(dim=1)
            spelled = torch.zeros(len(whole), dtype=torch.long, device=y.device)
            mixed = ~length.isfinite()
            for bit in range((len(y) - 1).bit_length()):
                part = gradient(number >> bit & 1)
                some = part.norm(dim=1) > _SAME * length
                mixed |= some & ((whole - part).norm(dim=1) > _SAME * length)
                spelled += some.long() << bit
        except RuntimeError:  # nothing of the input reaches the output, or not by what can be differentiated
            return None
    groups: list[list[int]] = [[] for _ in range(len(y))]
    rows = zip(spelled.tolist(), (length > 0).tolist(), mixed.tolist(), strict=True)
    for i, (out, used, wrong) in enumerate(rows):
        if wrong or out >= len(groups):
            return None
        if used:
            groups[out].append(i)
    return groups if groups and len({len(g) for g in groups}) == 1 and groups[0] else None


def signature(value: Any) -> Any:
    """A key for an argument of a module: equal for arguments that lead to the same arrangement of rows."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point()
        return (tuple(value.shape), None if floating else tuple(value.flatten().tolist()))
    if isinstance(value, list | tuple):
        return tuple(signature(x) for x in value)
    return value if isinstance(value, int | float | str | bool | None) else type(value).__name__
