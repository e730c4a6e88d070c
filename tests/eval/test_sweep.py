"""A sweep answers everything once, in one session or in many, in one process or in several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.core.budget import Retain
from sparsesight.equal_cost import PromptSizes, cost
from sparsesight.eval.cell_file import CellFile
from sparsesight.eval.distributed import Ranks
from sparsesight.eval.report import write_report
from sparsesight.eval.run_dir import Config, RunFolder
from sparsesight.eval.sweep import RunSpec, cell_dict, equal_cost, make_cells, same_retain, sweep
from sparsesight.eval.task import task_fingerprint
from sparsesight.macs import DecoderShape
from sparsesight.methods import Method, make_method
from tests.eval.made_samples import Made

METHODS, BUDGETS = ("random", "sparsevlm+"), (192, 64)
BATCH = 3
RESULTS = ("summary.json", "table.csv", "table.md")


def cells() -> list[RunSpec]:
    return make_cells(METHODS, BUDGETS, make_method, same_retain(576, 32))


def config(*tasks: Made) -> Config:
    names = {task.name: task_fingerprint(task) for task in tasks}
    return Config({"batch_size": BATCH}, names, {cell.label: cell_dict(cell) for cell in cells()})


def run(
    path: Path, *tasks: Made, ranks: Ranks | None = None, resume: bool = False, report: bool = True
) -> None:
    """What the command does, without its words."""
    ranks = ranks or Ranks()
    with RunFolder(path, config(*tasks), resume=resume, rank=ranks.rank) as folder:
        sweep(tasks, cells(), folder, batch_size=BATCH, ranks=ranks)
        if report and ranks.rank == 0:
            write_report(folder, tasks, cells(), {"model": "none"}, plots=False)


def contents(path: Path) -> dict[str, bytes]:
    """The files of a finished run by name, without those that tell of sessions."""
    skipped = {"run.json", "rank0.lock", "rank1.lock"}
    files = (x for x in path.rglob("*") if x.is_file() and x.name not in skipped)
    return {str(x.relative_to(path)): x.read_bytes() for x in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path, Made(), Made("second", count=10))
    return path


def test_every_question_is_asked_once_per_cell(tmp_path: Path) -> None:
    task = Made()
    run(tmp_path / "run", task)
    asked = Counter((label, name) for label, names in task.asked for name in names)
    assert len(asked) == 5 * 40 and set(asked.values()) == {1}
    assert {label for label, _ in asked} == {c.label for c in cells()}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    right = dict.fromkeys(("dense", "random@64"), 0)
    for number in range(40):
        right["dense"] += (number * 37) % 400 < 360
        right["random@64"] += (number * 37) % 400 < 64 * 0.9
    found = summary["tasks"]["made"]["cells"]
    assert {x: found[x]["score"]["value"] for x in right} == {x: n / 0.4 for x, n in right.items()}
    assert found["random@64"]["cost"]["macs_sparse"] == 64
    assert "| 6.4 |" in (tmp_path / "run" / "table.md").read_text()  # milliseconds of the prefill


def test_a_finished_sweep_asks_nothing_again(whole: Path) -> None:
    before = contents(whole)
    first, second = Made(), Made("second", count=10)
    run(whole, first, second, resume=True)
    assert first.asked == second.asked == []
    assert contents(whole) == before


class Interrupted(Exception):
    pass


class Failing(Made):
    """Stops in the middle."""

    left: int = 0

    def _one(self, item: Any, method: Method | None) -> Any:
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        return super()._one(item, method)


@pytest.mark.parametrize("steps", [1, 10, 37, 100])
def test_an_interrupted_sweep_goes_on_at_its_batch(tmp_path: Path, whole: Path, steps: int) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    for session in range(300):
        task = Failing()
        task.left = steps + BATCH  # at least a batch a session
        try:
            run(tmp_path, task, Made("second", count=10), resume=session > 0)
            break
        except Interrupted:
            asked.update((label, x) for label, names in task.asked for x in names)
    else:
        pytest.fail("it never ended")
    asked.update((label, x) for label, names in task.asked for x in names)
    # A batch that was interrupted is asked again, all others are not.
    assert sum(asked.values()) <= 5 * 40 + BATCH * session
    assert len(asked) == 200
    found, expected = contents(tmp_path), contents(whole)
    assert set(found) == set(expected)
    assert all(found[name] == expected[name] for name in expected)


PROGRAM = """
import sys
from pathlib import Path
from sparsesight.eval.distributed import Ranks
from tests.eval.made_samples import Made
from tests.eval.test_sweep import run
run(Path(sys.argv[1]), Made(pause=float(sys.argv[2])), Made("second", count=10), ranks=Ranks.of(), resume=True)
"""


def started(path: Path, pause: float, **environment: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(pause)], env=environment)


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "run"
    process = started(path, 0.02)
    parts = 0
    for _ in range(12000):
        parts = sum(len(x.read_bytes().split(b"\n")) for x in path.rglob("*.part"))
        if any(path.rglob("*.jsonl")) and parts > 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = sorted(x.name for x in path.rglob("*.part"))
    assert left and not (path / "summary.json").exists()
    # As if the kill had come in the middle of a write.
    torn = next(path.rglob("*.part"))
    torn.write_bytes(torn.read_bytes() + b'{"batch": 9, "answers": [{"text": "hal')
    run(path, Made(), Made("second", count=10), resume=True)
    found, expected = contents(path), contents(whole)
    assert set(found) == set(expected)
    assert all(found[name] == expected[name] for name in expected)
    assert len(json.loads((path / "run.json").read_text())) == 2


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "run"
    second = started(path, 0.0, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    first = started(path, 0.0, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert second.wait(300) == 0 and first.wait(300) == 0
    found, expected = contents(path), contents(whole)
    assert set(found) == set(expected)
    assert all(found[name] == expected[name] for name in expected)


def test_a_share_is_every_other_batch_of_what_nobody_answered(tmp_path: Path) -> None:
    """One process after the other: the last one waits for nobody, since all is there."""
    one, two = Made(), Made()
    with RunFolder(tmp_path, config(one)):
        pass
    run(tmp_path, one, ranks=Ranks(1, 2, 1), report=False)
    run(tmp_path, two, ranks=Ranks(0, 2, 0), resume=True)
    names = [{x for label, mine in task.asked if label == "dense" for x in mine} for task in (one, two)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 40
    assert {x for _, mine in one.asked for x in mine} == names[0]


def test_nothing_is_asked_of_a_cell_that_another_process_finishes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 finds a cell open; before it reads the batches, rank 0, which has them all, finishes the sweep."""
    with RunFolder(tmp_path, config(Made())):
        pass
    for rank in (1, 0):  # every batch is answered, none is scored
        with monkeypatch.context() as patch:
            patch.setattr("sparsesight.eval.sweep._finish", lambda *_: True)
            run(tmp_path, Made(), ranks=Ranks(rank, 2, rank), resume=True, report=False)
    late = Made()
    open_cell = CellFile.done.fget
    assert open_cell is not None
    raced: list[str] = []

    def then_finished(file: CellFile) -> bool:
        was = bool(open_cell(file))
        if file.rank == 1 and not raced:
            raced.append(file.final.name)
            run(tmp_path, Made(), resume=True)
        return was

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "done", property(then_finished))
        run(tmp_path, late, ranks=Ranks(1, 2, 1), report=False)
    assert raced == ["dense.jsonl"] and late.asked == []
    assert not list(tmp_path.rglob("*.part"))


def test_what_the_model_refuses_it_refuses_at_once(tmp_path: Path) -> None:
    class Refusing(Made):
        def answering(self, method: Method | None) -> Any:
            if method is not None and method.name == "sparsevlm+" and method.retain == 64:
                raise SparseSightError("not with this model")
            return super().answering(method)

    task = Refusing()
    with pytest.raises(SparseSightError, match="not with this model"):
        run(tmp_path, task)
    assert task.asked == []


def test_cells_are_fitted_to_a_budget() -> None:
    def half(method: Method, retain: Retain) -> Method:
        assert isinstance(retain, int)
        return replace(method, retain=retain // 2)

    made = make_cells(["dense", *METHODS], BUDGETS, make_method, half)
    labels = ["dense", "random@192", "sparsevlm+@192", "random@64", "sparsevlm+@64"]
    assert [cell.label for cell in made] == labels
    assert [c.method and c.method.retain for c in made] == [None, 96, 96, 32, 32]
    assert [cell.label for cell in make_cells(["dense"], [], make_method, same_retain(576, 32))] == ["dense"]


@pytest.mark.parametrize(
    ("names", "budgets", "message"),
    [
        (["random", "random"], [64], "--methods: 'random' is named twice"),
        (["random"], [64, 64], "--retain: 64 is named twice"),
        (["random"], [], "--retain: give at least one budget"),
        (["guess"], [64], "'guess' is unknown"),
    ],
)
def test_cells_that_make_no_sense(names: list[str], budgets: list[Retain], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        make_cells(names, budgets, make_method, same_retain(576, 32))


def test_equal_costs_are_equal() -> None:
    shape, prompt = DecoderShape.llama(32, 4096, 11008, 32), PromptSizes(576, 40, 35)
    fitted = equal_cost(shape, prompt, tuple(range(31)))
    made = make_cells(["sparsevlm", "sparsevlm+", "random"], [192, 64], make_method, fitted)
    for budget in (192, 64):
        macs = [cost(c.method, shape, prompt).macs for c in made if c.retain == budget]
        assert max(macs) < 1.02 * min(macs)
    assert {c.method.retain for c in made if c.method and c.name == "sparsevlm+"} == {192, 64}
    with pytest.raises(SparseSightError, match=r"--retain 300,200,110: counts per stage cannot be matched"):
        make_cells(["sparsevlm"], [(300, 200, 110)], make_method, fitted)


@pytest.mark.parametrize("wrong", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}])
def test_ranks_that_make_no_sense(wrong: dict[str, str]) -> None:
    with pytest.raises(SparseSightError, match="do not number the processes"):
        Ranks.of(wrong)


def test_ranks_are_the_launchers() -> None:
    assert Ranks.of({}) == Ranks(0, 1, 0)
    assert Ranks.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Ranks(5, 8, 1)
