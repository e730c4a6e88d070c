"""What tests of mixed scenes share: they are skipped where icons and fonts are not installed."""

from __future__ import annotations

import pytest

from sparsesight import SparseSightError
from sparsesight.scenes.mixed.dataset import PICTURES, SPLITS, picture_of
from sparsesight.scenes.mixed.packages import check_installed
from sparsesight.scenes.mixed.picture import Picture

EACH = 5  # pictures of every kind


@pytest.fixture(scope="session")
def drawable() -> None:
    try:
        check_installed()
    except SparseSightError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def pictures(drawable: None) -> list[Picture]:
    """The first pictures of the test split, EACH of every kind."""
    return [picture_of(SPLITS["test"], index) for index in range(EACH * len(PICTURES))]
