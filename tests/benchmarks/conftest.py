"""An untrained model of the bundled one's make, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.probing.answering import Examiner
from benchmarks.probing.store import Store
from benchmarks.training.blueprint import build_model, build_processor


@pytest.fixture(scope="session")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Examiner:
    folder: Path = tmp_path_factory.mktemp("probes")
    model = build_model(width=64, layers=3, tower_layers=1, seed=0).eval()
    return Examiner(model, build_processor(), Store(folder / "probes.json", {}), 4)
