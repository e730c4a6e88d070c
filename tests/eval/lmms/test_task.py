"""Published benchmarks through the sweep: the numbers are lmms-eval's, worked out by hand in `datasets.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install sparsesight[eval]")

from sparsesight import SparseSightError
from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.lmms.task import HarnessTask, harness_tasks
from sparsesight.eval.report import write_report
from sparsesight.eval.run_dir import Config, RunFolder
from sparsesight.eval.sweep import RunSpec, cell_dict, sweep
from sparsesight.eval.tables import size, units
from sparsesight.eval.task import task_fingerprint
from sparsesight.methods import make_method

from ..datasets import EXPECTED, bare, build

NAMES = ("gqa", "pope", "mme", "mmbench", "textvqa")
CELLS = [RunSpec("dense", None, None), RunSpec("random", 64, make_method("random", retain=64))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("harness")
    before = dict(os.environ)
    os.environ["LMMS_EVAL_DATASETS_CACHE"] = os.environ["HF_DATASETS_CACHE"] = str(root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(BENCHMARKS, name, bare(name))
        yield build(root / "data")
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def model() -> Any:
    from sparsesight.eval.lmms.model import SparseSightModel

    return SparseSightModel(batch_size="2")


@pytest.fixture(scope="module")
def tasks(model: Any, data: Path) -> list[HarnessTask]:
    return harness_tasks(NAMES, model, data=data, limit=None)


@pytest.fixture(scope="module")
def summary(tasks: list[HarnessTask], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = Config(
        {}, {t.name: task_fingerprint(t) for t in tasks}, {cell.label: cell_dict(cell) for cell in CELLS}
    )
    with RunFolder(tmp_path_factory.mktemp("run") / "run", config) as folder:
        sweep(tasks, CELLS, folder, batch_size=2)
        return write_report(folder, tasks, CELLS, {}, plots=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_dense_score_is_the_one_worked_out_by_hand(name: str, summary: dict[str, Any]) -> None:
    assert summary["tasks"][name]["cells"]["dense"]["score"]["value"] == pytest.approx(
        EXPECTED[name], abs=1e-3
    )


def test_units_are_the_benchmarks_own(summary: dict[str, Any]) -> None:
    assert summary["tasks"]["mme"]["samples"] == 2 * summary["tasks"]["mme"]["units"]
    assert summary["tasks"]["mmbench"]["units"] < summary["tasks"]["mmbench"]["samples"]
    assert summary["tasks"]["gqa"]["units"] == summary["tasks"]["gqa"]["samples"] == 4
    called = {name: summary["tasks"][name]["unit"] for name in ("mme", "mmbench", "gqa")}
    assert called == {"mme": "picture", "mmbench": "question", "gqa": "question"}
    assert size(summary["tasks"]["gqa"]) == "4 questions"
    assert size(summary["tasks"]["mmbench"]).endswith(f"prompts of {units(summary['tasks']['mmbench'])}")


def test_costs_come_along(summary: dict[str, Any]) -> None:
    for task in summary["tasks"].values():
        dense, sparse = (task["cells"][cell.label]["cost"] for cell in CELLS)
        assert dense["macs_sparse"] == dense["macs_dense"] > 2 * sparse["macs_sparse"]


def test_prefills_are_timed_where_asked_for(model: Any, data: Path) -> None:
    (task,) = harness_tasks(["gqa"], model, data=data, limit=2, latency=True)
    for cell in CELLS:
        with task.answering(cell.method) as answer:
            for _ in range(2):
                assert all(x.prefill_ms is not None and x.prefill_ms > 0 for x in answer(task.items))


def test_a_wrong_sum_is_noticed(tasks: list[HarnessTask], monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks[0]
    with monkeypatch.context() as patch:
        patch.setattr("sparsesight.eval.lmms.task._scores", lambda *_: {"correct": 0.0})
        with pytest.raises(
            SparseSightError, match=r"'gqa': lmms-eval's number is .*, the samples add up to 0"
        ):
            task.score({item.id: str(item.target) for item in task.items})


def test_ranks_do_not_reach_the_scorer(tasks: list[HarnessTask], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    scores = tasks[0].score({item.id: str(item.target) for item in tasks[0].items})
    assert {x["correct"] for x in scores.values()} == {1.0}
    assert os.environ["WORLD_SIZE"] == "2" and os.environ["RANK"] == "1"


def test_half_a_pair_is_refused(model: Any, data: Path) -> None:
    (task,) = harness_tasks(["mme"], model, data=data, limit=3)
    with pytest.raises(SparseSightError, match=r"'mme' cannot be scored .*leave out --limit"):
        task.score({item.id: "yes" for item in task.items})


def test_a_part_of_the_questions_can_be_scored(model: Any, data: Path) -> None:
    """The first four of MME's are all about perception: lmms-eval has no other number then."""
    (task,) = harness_tasks(["mme"], model, data=data, limit=4)
    answers = {item.id: str(item.target) for item in task.items}
    assert [x["correct"] for x in task.score(answers).values()] == [1.0] * 4


def test_sizes_of_prompts(tasks: list[HarnessTask], model: Any) -> None:
    one = tasks[0].sizes(tasks[0].items[:2])
    inputs = model.prepare([item.request for item in tasks[0].items[:2]])
    assert [p.visual for p in one] == [576, 576]
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert [p.visual + p.text + p.before for p in one] == lengths
    assert all(p.text > 3 and p.before > 0 for p in one)


def test_items_are_ready_for_the_samples_file(tasks: list[HarnessTask]) -> None:
    for task in tasks:
        for item in task.items:
            assert json.loads(json.dumps(item.target)) == item.target
