"""Small buffers for as long as these tests run: their bandwidth is measured, and what it is does not matter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparsesight.bench import ceilings


@pytest.fixture(scope="package", autouse=True)
def small_buffers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ceilings.BUFFER, "cpu", 1 << 20)
        yield
