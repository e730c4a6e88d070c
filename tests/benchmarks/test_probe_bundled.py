"""The command, from a model on disk to tables and plots, stopped and started again."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.probing.answering import Examiner
from benchmarks.training.blueprint import build_model

ROOT = Path(__file__).parents[2]
PARTS = ["accuracy", "controls", "raters", "depth"]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Gives the command as a module that has been given arguments."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where it finds its parts

    def given(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["probe_bundled.py", *arguments])
        return importlib.import_module("probe_bundled")

    return given


@pytest.mark.slow
def test_all_parts(probe: Callable[..., Any], examiner: Examiner, tmp_path: Path) -> None:
    model = build_model(width=64, layers=4, tower_layers=1, seed=0)  # the methods have three stages
    model.save_pretrained(tmp_path / "model")
    examiner.processor.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    how = [
        "--out",
        str(out),
        "--model",
        str(tmp_path / "model"),
        "--scenes",
        "2",
        "--depth-scenes",
        "1",
        "--depths",
        "2",
    ]
    probe(*how).main()
    data = json.loads((out / "probes.json").read_text(encoding="utf-8"))
    assert sorted(data["parts"]) == sorted(PARTS) and data["subject"]["decoder_layers"] == 4
    assert data["parts"]["depth"]["grid"]["depths"] == [2]
    assert len(data["cells"]) == 4 + 3 + (1 + 5 * 6 + 2 * 3)
    assert all(data["parts"][part]["made_with"]["command"] for part in PARTS)
    assert "## Raters" in (out / "probes.md").read_text(encoding="utf-8")
    assert all((out / f"{part}.png").stat().st_size > 10_000 for part in PARTS)

    # What is finished is not done again: a mark that no run would give stays.
    data["cells"]["dense/test"] = data["cells"]["dense/test"].replace("0", "1")
    (out / "probes.json").write_text(json.dumps(data), encoding="utf-8")
    probe(*how, "--parts", "accuracy").main()
    data = json.loads((out / "probes.json").read_text(encoding="utf-8"))
    assert data["parts"]["accuracy"]["splits"]["test"]["all"]["share"] == 1
    assert sorted(data["parts"]) == sorted(PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "accuracy,speed"], "speed"),
        (["--scenes", "1"], "another scene's picture"),
        (["--depths", "1;2"], "whole numbers"),
        (["--threads", "0"], "1 or more"),
    ],
)
def test_refusals(
    probe: Callable[..., Any], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        probe("--out", "nowhere", *arguments).parse()
    assert message in capsys.readouterr().err
