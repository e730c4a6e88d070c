"""Tests that wait to be asked for."""

from __future__ import annotations

import os
from typing import Any

import pytest


def patience(test: Any) -> Any:
    """Marks a test that takes minutes."""
    asked = pytest.mark.skipif(
        "SPARSESIGHT_SLOW" not in os.environ, reason="takes minutes: set SPARSESIGHT_SLOW=1"
    )
    return pytest.mark.slow(asked(test))
