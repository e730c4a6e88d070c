"""The matrix: every family, on eager and sdpa, against the invariants (design section 4)."""

from __future__ import annotations

import pytest
import transformers

from tests.hf.families import ALL
from tests.hf.families.base import Family
from tests.hf.families.matrix import ATTENTION, CHECKS, DENSE, Case

# Builders are written for this version or later; some families did not do in older ones what they were made for.
NEWEST = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)


@pytest.fixture(scope="module", params=ALL, ids=lambda family: family.name)
def case(request: pytest.FixtureRequest) -> Case:
    family: Family = request.param
    if family.missing:
        pytest.skip(family.missing)
    return Case(family)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("check", CHECKS)
def test_family(case: Case, check: str, attention: str) -> None:
    why = case.family.broken.get(check)
    if why:
        try:
            DENSE.get(check, CHECKS[check])(case, attention)
        except Exception:
            pytest.skip(f"{case.family.name}, {check}: {why}")
    try:
        CHECKS[check](case, attention)
    except Exception:
        if NEWEST:
            raise
        why = case.dense_failure(check, attention)
        if not why:
            raise
        pytest.skip(
            f"{case.family.name}, {check}: the dense model fails too on {transformers.__version__}: {why}"
        )
