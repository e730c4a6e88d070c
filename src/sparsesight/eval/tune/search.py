"""The search for the cheapest setting that keeps the answers, with a promise that holds over the whole search.

The units are split once, before anything is asked (Pareto testing: Laufer-Goldshtein et al., arXiv:2210.07913):

1. The *search part* chooses. Candidates are asked in rounds of twice as many units each, and after a round up to half
   of them leave: those that visibly lose too much, the worst first (successive halving: Jamieson and Talwalkar,
   arXiv:1502.07943). What is left makes a sequence from the dearest to the cheapest (:func:`sequence`).
2. The *held-back part* tests the sequence in its order, each candidate with the same exact test at the full error rate,
   and ends at the first that fails (fixed-sequence testing: Angelopoulos et al., arXiv:2110.01052, section 4).

Why this is valid: the sequence depends on the search part alone, so for the held-back part it is fixed in advance,
however it was found and whoever was dropped. A wrong promise needs the first candidate of the sequence that keeps too
little to pass its test, which is one event of at most the error rate; nobody behind it is tested if it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ...errors import SparseSightError
from .bounds import Array, at_most, chance_to_pass, p_value

RULED_OUT = (
    0.05  # a candidate may leave early if so many losses were less likely than this, had it kept enough
)
SURE = 0.99  # of passing: nothing needs a test before such a candidate
HOPELESS = 0.02  # of passing: not tested

Ask = Callable[[str, int], Array]  # losses of the units of a chunk under a candidate


@dataclass
class Candidate:
    """What the search has found out about a setting.

    Attributes:
        name: unique.
        kind: candidates of one kind differ in their budget alone, so that dearer ones are thought to keep more.
        search, held: losses of the units that were asked, in their order.
        cost: of a prefill; known after the first round.
        state: what became of it, in words.
        passed: whether the held-back part shows that it keeps enough; None if it was not tested to its end.
        skipped: why it could not run; "" if it could.
    """

    name: str
    kind: str
    search: Array = field(default_factory=lambda: np.zeros(0))
    held: Array = field(default_factory=lambda: np.zeros(0))
    cost: float = math.inf
    state: str = ""
    passed: bool | None = None
    skipped: str = ""


@dataclass(frozen=True)
class Parts:
    """How units are asked: chunk by chunk, those of the search part first.

    Attributes:
        sizes: units of each chunk.
        search: how many chunks the search part has.
    """

    sizes: tuple[int, ...]
    search: int

    @property
    def held(self) -> range:
        return range(self.search, len(self.sizes))

    @property
    def held_units(self) -> int:
        return sum(self.sizes[i] for i in self.held)

    @property
    def rounds(self) -> list[range]:
        """The chunks of each round of the search part: a quarter of them, another quarter, the other half."""
        ends = [0, *sorted({math.ceil(self.search * share) for share in (0.25, 0.5, 1)})]
        return [range(a, b) for a, b in pairwise(ends)]


def search(
    kinds: Mapping[str, str],
    ask: Ask,
    cost: Callable[[str], float],
    dense: Callable[[], float],
    parts: Parts,
    keep: float,
    confidence: float,
) -> tuple[list[Candidate], Candidate | None]:
    """All candidates, and the cheapest of which the promise holds; None if it holds of none.

    Args:
        kinds: of the candidates, by their names.
        ask: losses [units of the chunk] in [0, 1]; a :class:`SparseSightError` skips the candidate.
        cost: of a candidate that has been asked.
        dense: cost of the dense model, over the units that were asked; a candidate that costs no less leaves.
        parts: how units are split.
        keep: the share of answers that is to stay, in (0, 1).
        confidence: of the promise, in (0, 1).
    """
    everyone = [Candidate(name, kind) for name, kind in kinds.items()]
    alive = list(everyone)
    rounds = parts.rounds
    for number, chunks in enumerate(rounds):
        for chunk in chunks:  # by turns, so that inputs are made once
            for x in alive:
                _ask(x, ask, chunk)
            alive = [x for x in alive if not x.skipped]
        for x in alive:
            x.cost = cost(x.name)
            x.state = "costs no less than dense" if x.cost >= dense() else ""
        alive = [x for x in alive if not x.state]
        if number < len(rounds) - 1:
            alive = _halved(alive, keep)
    chosen = None
    for x in sequence(alive, parts.held_units, keep, confidence, dense()):
        if not _holds(x, ask, parts, keep, confidence):
            break
        chosen = x
    for x in everyone:
        x.state = x.state or ("cannot run" if x.skipped else "not tested")
    return everyone, chosen


def sequence(
    alive: Sequence[Candidate], held: int, keep: float, confidence: float, dense: float
) -> list[Candidate]:
    """Candidates in the order of their tests, from the dearest to the cheapest, by the search part alone.

    The aim is the candidate of the largest expected saving. Before it come dearer ones of its kind, until one is sure
    to pass, and the surest of all if none is. Behind it comes, again and again, what is expected to save most beyond.
    """
    if not alive:
        return []
    by_cost = sorted(alive, key=lambda x: (x.cost, x.name))
    chance = _chances(by_cost, held, keep, confidence)
    aim = max(by_cost, key=lambda x: chance[x.name] * (dense - x.cost))
    if chance[aim.name] < HOPELESS:
        return []
    order, dearer = [aim], by_cost[by_cost.index(aim) + 1 :]
    for x in dearer:
        if chance[order[0].name] >= SURE:
            break
        if x.kind == aim.kind:
            order.insert(0, x)
    surest = max(dearer, key=lambda x: chance[x.name], default=aim)
    if chance[order[0].name] < min(SURE, chance[surest.name]):
        order = [surest, *(x for x in order if x.cost < surest.cost)]
    cheaper = [x for x in by_cost[: by_cost.index(aim)] if chance[x.name] >= HOPELESS]
    while cheaper:
        least = order[-1].cost
        best = max(cheaper, key=lambda x: chance[x.name] * (least - x.cost))
        order.append(best)
        cheaper = [x for x in cheaper if x.cost < best.cost]
    return order


def _chances(by_cost: Sequence[Candidate], held: int, keep: float, confidence: float) -> dict[str, float]:
    """How likely each candidate passes, by its losses in the search part; one is at least as likely as the cheaper ones
    of its kind.

    In few units a cheap candidate may lose nothing by luck, and a dearer one of the same method more. Taken as they
    are, the first would begin the sequence, and end it. No promise rests on this, as the order is fixed by the search
    part either way; where more tokens in truth keep fewer answers, fewer promises are made.
    """
    chance: dict[str, float] = {}
    best: dict[str, float] = {}
    for x in by_cost:
        own = chance_to_pass(float(x.search.sum()), len(x.search), held, keep, confidence)
        chance[x.name] = best[x.kind] = max(own, best.get(x.kind, 0.0))
    return chance


def _halved(alive: list[Candidate], keep: float) -> list[Candidate]:
    """Without the worst, at most half of them, of those that visibly lose too much."""
    out = {x.name: 1 - at_most(math.ceil(x.search.sum()) - 1, len(x.search), 1 - keep) for x in alive}
    worst = sorted((x for x in alive if out[x.name] < RULED_OUT), key=lambda x: (-x.search.sum(), x.cost))
    for x in (gone := worst[: len(alive) // 2]):
        x.state = f"dropped after {len(x.search)}"
    return [x for x in alive if x not in gone]


def _ask(x: Candidate, ask: Ask, chunk: int, held: bool = False) -> None:
    try:
        losses = ask(x.name, chunk)
    except SparseSightError as error:
        x.skipped, x.state = str(error), "cannot run"
        return
    if held:
        x.held = np.concatenate((x.held, losses))
    else:
        x.search = np.concatenate((x.search, losses))


def _holds(x: Candidate, ask: Ask, parts: Parts, keep: float, confidence: float) -> bool:
    """Whether the held-back part shows that a candidate keeps enough; it ends when that cannot come true any more."""
    for chunk in parts.held:
        _ask(x, ask, chunk, held=True)
        if x.skipped:
            return False
        if p_value(np.pad(x.held, (0, parts.held_units - len(x.held))), keep) > 1 - confidence:
            x.passed, x.state = False, "failed" if chunk == parts.held[-1] else f"failed after {len(x.held)}"
            return False
    x.passed, x.state = True, "holds"
    return True
