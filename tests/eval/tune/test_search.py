"""The promise over the whole search, by simulation, and what a search does with its candidates."""

from __future__ import annotations

import numpy as np
import pytest

from sparsesight import SparseSightError
from sparsesight.eval.tune.search import Candidate, Parts, search

PARTS = Parts((8,) * 40, 10)  # 80 units to search, 240 held back
FEW = Parts((20,) * 4 + (60,) * 4, 4)  # the same in fewer steps, for thousands of searches


def run(
    lost: np.ndarray,
    costs: list[float],
    parts: Parts = PARTS,
    own: bool = False,
    kinds: str = " ",
    dense: float = 20.0,
    keep: float = 0.98,
) -> tuple[list[Candidate], Candidate | None]:
    """A search over losses [candidates, units]; with ``own`` each candidate is of its own kind, else as many are of
    each of the ``kinds``.
    """
    cuts = np.cumsum((0, *parts.sizes))
    asked = set()

    def ask(name: str, chunk: int) -> np.ndarray:
        assert (name, chunk) not in asked
        asked.add((name, chunk))
        return lost[int(name), cuts[chunk] : cuts[chunk + 1]]

    of = {str(i): str(i) if own else kinds[i * len(kinds) // len(costs)] for i in range(len(costs))}
    return search(of, ask, lambda name: costs[int(name)], lambda: dense, parts, keep, 0.95)


def drawn(rng: np.random.Generator, risks: np.ndarray, together: float) -> np.ndarray:
    """Losses [candidates, units] of given risks; ``together`` is how much candidates fail on the same units."""
    shared, own = rng.random(PARTS.held_units + 80), rng.random((len(risks), PARTS.held_units + 80))
    return (np.where(rng.random(own.shape) < together, shared, own) < risks[:, None]).astype(float)


WORLDS = {
    "all just too bad": np.full(10, 0.0201),
    "all just too bad, one good": np.array([0.0, *[0.0201] * 9]),
    "a staircase around the promise": np.linspace(0.03, 0.005, 10),
    "a staircase against the costs": np.linspace(0.005, 0.03, 10),
}
COUNT = 600


@pytest.mark.parametrize("together", [0.0, 1.0])
@pytest.mark.parametrize("world", WORLDS)
def test_the_promise_fails_in_one_search_of_twenty(world: str, together: float) -> None:
    """Thousands of searches over candidates whose true risk is known."""
    risks, costs = WORLDS[world], [float(i + 1) for i in range(10)]
    rng = np.random.default_rng([7, len(world), int(together)])
    wrong = found = 0
    for _ in range(COUNT):
        _, chosen = run(drawn(rng, risks, together), costs, FEW, "against" in world)
        found += chosen is not None
        wrong += chosen is not None and risks[int(chosen.name)] > 0.02
    assert wrong / COUNT <= 0.05 + 2.5 * (0.05 * 0.95 / COUNT) ** 0.5
    if world.startswith("a staircase"):
        assert found / COUNT > 0.5  # a promise that is never made never fails


def test_a_search_per_candidate_would_break_the_promise() -> None:
    """The simulation can see it: the best of ten promises, each at 95 %, is wrong far more often."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        lost = drawn(rng, np.full(10, 0.0201), 0.0)
        wrong += any(run(lost[i : i + 1], [1.0], FEW)[1] is not None for i in range(10))
    assert wrong / 200 > 0.2


def test_the_cheapest_that_keeps_enough() -> None:
    lost = np.zeros((4, 320))
    lost[0, ::4] = 1  # visibly bad: leaves after the first round
    lost[1, 100:110] = 1  # fails on what is held back
    everyone, chosen = run(lost, [1.0, 2.0, 3.0, 4.0])
    assert chosen is not None and chosen.name == "2"
    assert [x.state for x in everyone] == ["dropped after 24", "failed after 24", "holds", "holds"]
    assert len(everyone[0].held) == 0 and len(everyone[2].held) == 240 and everyone[1].passed is False


def test_luck_in_the_search_part_does_not_end_the_sequence() -> None:
    """The cheaper one of a method lost nothing there and loses enough later; the dearer one stands before it."""
    lost = np.zeros((2, 320))
    lost[1, 70:72] = 1
    lost[0, 100:110] = 1
    everyone, chosen = run(lost, [1.0, 2.0])
    assert chosen is not None and chosen.name == "1" and everyone[0].passed is False
    everyone, chosen = run(lost, [1.0, 2.0], own=True)
    assert chosen is None and everyone[1].state == "not tested", "of another method nothing follows"


def test_a_dearer_candidate_is_not_tested_where_the_cheaper_one_is_sure() -> None:
    lost = np.zeros((2, 2000))
    lost[1, 70:72] = 1
    everyone, chosen = run(lost, [1.0, 2.0], Parts((100,) * 20, 10))
    assert chosen is not None and chosen.name == "0" and everyone[1].state == "not tested"


def test_what_costs_no_less_than_the_dense_model_is_never_chosen() -> None:
    """Measured times of a busy machine, or of a method that takes long: the cheapest fails, the others save nothing."""
    lost = np.zeros((3, 320))
    lost[0, 100:110] = 1
    everyone, chosen = run(lost, [19.0, 20.0, 31.0])
    assert chosen is None
    assert [x.state for x in everyone] == ["failed after 24", *["costs no less than dense"] * 2]
    assert [len(x.search) for x in everyone] == [80, 24, 24]


def test_a_promise_is_made_where_there_are_few_rows_to_search() -> None:
    """120 rows at --keep 0.9, and one method of three that keeps enough, at its larger budgets only. With each chance
    taken for itself, 0.63 of 300 searches ended with a promise; with those of dearer budgets at least as large, 0.78.
    """
    risks = np.array([0.03, 0.05, 0.06, 0.08, 0.1, 0.14, 0.05, 0.06, 0.08, 0.1, 0.12, 0.2, *[0.3] * 5, 0.5])
    costs, parts = [75.0, 60.0, 50.0, 40.0, 30.0, 20.0] * 3, Parts((10,) * 12, 3)
    rng, found = np.random.default_rng(5), 0
    for _ in range(200):
        lost = (rng.random((18, 120)) < risks[:, None]).astype(float)
        found += run(lost, costs, parts, kinds="abc", dense=100.0, keep=0.9)[1] is not None
    assert found / 200 > 0.7


def test_at_most_half_leave_after_a_round() -> None:
    everyone, chosen = run(np.ones((6, 320)), [float(i) for i in range(6)])
    assert chosen is None
    assert sorted(x.state for x in everyone) == [
        "dropped after 24",
        "dropped after 24",
        "dropped after 24",
        "dropped after 40",
        "not tested",
        "not tested",
    ]


def test_a_candidate_that_cannot_run_is_skipped_with_its_sentence() -> None:
    def ask(name: str, chunk: int) -> np.ndarray:
        if name == "bad" and chunk == 1:
            raise SparseSightError("it cannot")
        return np.zeros(8)

    everyone, chosen = search({"bad": "", "good": ""}, ask, lambda name: 1.0, lambda: 2.0, PARTS, 0.98, 0.95)
    assert (everyone[0].skipped, everyone[0].state) == ("it cannot", "cannot run")
    assert chosen is not None and chosen.name == "good"


def test_what_saves_little_does_not_stand_before_what_saves_much() -> None:
    """A setting of another kind that is a little cheaper, and fails, would end the sequence."""
    lost = np.zeros((3, 320))
    lost[1, 90:110] = 1  # invisible in the search part
    everyone, chosen = run(lost, [2.0, 9.9, 10.0], own=True)
    assert chosen is not None and chosen.name == "0"
    assert everyone[1].passed is None
