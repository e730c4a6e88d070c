"""What several of these tests start from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparsesight import bundled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be tampered with."""
    return Path(shutil.copytree(bundled.MODEL_PATH, tmp_path / "model"))
