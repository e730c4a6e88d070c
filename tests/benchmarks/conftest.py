"""An untrained model of the bundled one's make, small enough for tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.probing.answering import Examiner
from benchmarks.probing.store import Store
from benchmarks.training.blueprint import build_model, build_processor


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Examiner:
    folder: Path = tmp_path_factory.mktemp("probes")
    model = build_model(width=64, layers=3, tower_layers=1, seed=0).eval()
    return Examiner(model, build_processor(), Store(folder / "probes.json", {}), 4)


def script(name: str) -> Any:
    """The module of a script in benchmarks/, imported as when it is run: from its own folder."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def train_bundled() -> Any:
    return script("train_bundled")


@pytest.fixture(scope="session")
def bundle() -> Any:
    return script("bundle")
