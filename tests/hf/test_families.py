"""The matrix: every family against the invariants (design section 4), on eager and sdpa attention.

Checks whose code is the same for both attention implementations run on one, in turn; of those that run on both, the
second attention is marked slow, as are checks with every sample. Checks of less than the invariants fall to every
third or sixth family in turn; for the others they are marked slow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import transformers

from tests.hf.families import ALL
from tests.hf.families.case import ATTENTION, Case
from tests.hf.families.matrix import BOTH, CHECKS, DENSE, ONE, SIXTH, SLOW, THIRD, dense_runs

# Builders are written for this version or later; some families did not do in older ones what they were made for.
NEWEST = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)


def runs() -> list[Any]:
    """Parameters of all families, each with its checks."""
    found = []
    for number, family in enumerate(ALL):
        checks = [
            # On one attention they share runs.
            *((check, turn, turn > 0) for check in BOTH for turn in (0, 1)),
            *(
                # Of two neighbours, which have different attention, a check falls to both.
                (check, i, (number // 2 + i) % share > 0)
                for share, some in ((1, ONE), (3, THIRD), (6, SIXTH))
                for i, check in enumerate(some)
            ),
            *((check, turn, True) for check in SLOW for turn in ((0, 1) if check[:5] in BOTH else (0,))),
        ]
        for check, turn, slow in checks:
            name = f"{family.name}-{check}-{ATTENTION[(number + turn) % 2]}"
            marks = pytest.mark.slow if slow else ()
            found.append(pytest.param(number, check, turn, id=name, marks=marks))
    return found


@lru_cache(maxsize=1)
def case_of(number: int) -> Case:
    """Shared by the checks of a family, which come one after the other."""
    return Case(ALL[number], number)


@pytest.mark.parametrize(("number", "check", "turn"), runs())
def test_family(number: int, check: str, turn: int) -> None:
    if ALL[number].missing:
        pytest.skip(ALL[number].missing)
    case = case_of(number)
    attention = ATTENTION[(case.number + turn) % 2]
    why = case.family.broken.get(check.removesuffix("_of_all"))
    if why:
        try:
            DENSE.get(check, CHECKS[check])(case, attention)
        except Exception:
            pytest.skip(f"{case.family.name}, {check}: {why}")
    try:
        CHECKS[check](case, attention)
    except Exception:
        if NEWEST and check not in DENSE:
            raise
        why = dense_failure(case, check, attention)
        if not why:
            raise
        pytest.skip(
            f"{case.family.name}, {check}: the dense model fails too on {transformers.__version__}: {why}"
        )


def dense_failure(case: Case, check: str, attention: str) -> str:
    """Why the dense model does not do what a check asks of the sparse one, or nothing if it does."""
    try:
        DENSE.get(check, dense_runs)(case, attention)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return ""
