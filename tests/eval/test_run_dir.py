"""Run folders: what is written, what is refused, and what is left of a process that was killed."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.eval.cell_file import CellFile
from sparsesight.eval.prepare import _program
from sparsesight.eval.records import Answer
from sparsesight.eval.run_dir import Config, RunFolder, check_usable
from tests.eval.made_samples import cost, marked

CONFIG = Config(
    {"batch_size": 4, "model": "tiny"}, {"made": "abc"}, {"dense": None, "random@64": {"retain": 64}}
)


def changed(**parts: Any) -> Config:
    return Config(**{"settings": CONFIG.settings, "tasks": CONFIG.tasks, "cells": CONFIG.cells, **parts})


def batch(*texts: str) -> list[Answer]:
    return [Answer(text, cost(), 1.5) for text in texts]


def test_a_folder_is_made_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with RunFolder(path, CONFIG, session={"command": "first"}):
        pass
    with pytest.raises(SparseSightError, match=r"holds a run: pass --resume"):
        RunFolder(path, CONFIG)
    with RunFolder(path, CONFIG, resume=True, session={"command": "second"}):
        pass
    assert [x["command"] for x in json.loads((path / "run.json").read_text())] == ["first", "second"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed(settings={"batch_size": 8, "model": "tiny"}), "setting batch_size: there 4, now 8"),
        (changed(settings={"batch_size": 4}), 'setting model: there "tiny", now null'),
        (changed(settings={**CONFIG.settings, "limit": 5}), "setting limit: there null, now 5"),
        (changed(tasks={"made": "xyz"}), 'task made: there "abc", now "xyz"'),
        (changed(cells={**CONFIG.cells, "random@64": {"retain": 65}}), "method random@64: there"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, other: Config, message: str) -> None:
    RunFolder(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(SparseSightError, match=message):
        RunFolder(tmp_path, other, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_tasks_and_methods_may_be_added_but_not_left_out(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).close()
    more = changed(
        tasks={"other": "def", **CONFIG.tasks}, cells={**CONFIG.cells, "sparsevlm@64": {"retain": 64}}
    )
    RunFolder(tmp_path, more, resume=True).close()
    assert list(json.loads((tmp_path / "config.json").read_text())["tasks"]) == ["other", "made"]
    with pytest.raises(SparseSightError, match="also holds task 'other': name all that it holds"):
        RunFolder(tmp_path, changed(cells=more.cells), resume=True)
    with pytest.raises(SparseSightError, match="also holds method 'sparsevlm@64'"):
        RunFolder(tmp_path, changed(tasks=more.tasks), resume=True)


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(SparseSightError, match=r"cannot be used .* name another folder"):
        check_usable(tmp_path / "thesis.txt", resume=False)  # before a model is loaded
    with pytest.raises(SparseSightError, match="is not empty and holds no run"):
        RunFolder(tmp_path, CONFIG, resume=True)
    with pytest.raises(SparseSightError, match="cannot be used"):
        RunFolder(tmp_path / "thesis.txt", CONFIG)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(SparseSightError, match="is not the configuration of a run"):
        RunFolder(tmp_path, CONFIG, resume=True)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    if find_spec("lmms_eval"):  # it changes filelock for the whole process
        import_module("lmms_eval.evaluator")._enable_reentrant_filelocks()
    with RunFolder(tmp_path, CONFIG):
        with pytest.raises(SparseSightError, match="being filled by another process"):
            RunFolder(tmp_path, CONFIG, resume=True)
        RunFolder(tmp_path, CONFIG, rank=1).close()  # another rank of the same sweep
    RunFolder(tmp_path, CONFIG, resume=True).close()


def test_other_processes_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsesight.eval.run_dir.PATIENCE", 0.2)
    with pytest.raises(SparseSightError, match="the first process has made no run folder"):
        RunFolder(tmp_path, CONFIG, rank=1)


def test_batches_come_back(tmp_path: Path) -> None:
    cell = CellFile(tmp_path / "made" / "random@64", rank=0)
    assert cell.answered() == {} and not cell.done
    cell.append(0, batch("a\n\u2028b", "ü"))
    cell.append(2, batch("c"))
    other = CellFile(tmp_path / "made" / "random@64", rank=11)
    other.append(1, batch("d"))
    other.append(2, batch("again"))
    found = CellFile(tmp_path / "made" / "random@64", rank=5).answered()
    assert found == {0: batch("a\n\u2028b", "ü"), 1: batch("d"), 2: batch("c")}  # a batch counts once


@pytest.mark.parametrize("cut", [1, 2, 30, 10_000])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    cell = CellFile(tmp_path / "random@64", rank=0)
    cell.append(0, batch("a"))
    cell.append(1, batch("b"))
    (part,) = tmp_path.iterdir()
    whole = part.read_bytes()
    last = whole.index(b"\n") + 1
    part.write_bytes(whole[: max(len(whole) - cut, last)])
    assert list(cell.answered()) == [0]
    cell.append(1, batch("b"))
    assert part.read_bytes() == whole


def test_other_damage_is_not_passed_over(tmp_path: Path) -> None:
    cell = CellFile(tmp_path / "random@64", rank=0)
    cell.append(0, batch("a"))
    (part,) = tmp_path.iterdir()
    part.write_bytes(b'{"batch": 3}\n' + part.read_bytes())
    with pytest.raises(SparseSightError, match=r"rank0\.part is damaged in line 1"):
        cell.answered()


def test_samples_take_the_place_of_batches(tmp_path: Path) -> None:
    cell = CellFile(tmp_path / "random@64", rank=0)
    longer = CellFile(tmp_path / "random@640", rank=0)
    cell.append(0, batch("a"))
    longer.append(0, batch("b"))
    samples = marked([1, 0, 1])
    cell.finish(samples, [3.0, 1.0, 2.0])
    assert cell.done and cell.samples() == samples and cell.prefill_ms() == 2.0
    assert cell.answered() is None and longer.answered() == {0: batch("b")}
    longer.finish(samples)
    assert longer.prefill_ms() is None
    names = {"random@64.jsonl", "random@64.latency.json", "random@640.jsonl"}
    assert {x.name for x in tmp_path.iterdir()} == names


def test_any_label_is_a_file_name(tmp_path: Path) -> None:
    with RunFolder(tmp_path, CONFIG) as folder:
        labels = ("visionzip(retain=192) > sparsevlm+@64", "a/b", "..", "300,200,110", "a_b", "CON:*?")
        for number, label in enumerate(labels):
            folder.cell("made", label).finish(marked([number % 2]))
        assert len(list((tmp_path / "samples" / "made").iterdir())) == len(labels)
        assert [folder.cell("made", x).samples()[0].scores["correct"] for x in labels] == [0, 1, 0, 1, 0, 1]


def test_a_cell_that_is_finished_while_it_is_looked_at_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process puts the samples in place and deletes the batches at each moment at which another looks."""
    first, second = CellFile(tmp_path / "cell", 0), CellFile(tmp_path / "cell", 1)

    def finish() -> None:
        first.finish(marked([1, 1]))

    def begin() -> None:
        first.final.unlink(missing_ok=True)
        first.append(0, batch("one"))
        second.append(1, batch("two"))

    begin()
    assert not second.done
    finish()  # between the two looks
    assert second.answered() is None

    begin()
    listed = CellFile._parts

    def then_finished(file: CellFile) -> list[Path]:
        found = listed(file)
        if file is second:
            finish()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "_parts", then_finished)
        assert second.answered() is None

    begin()
    read = Path.read_bytes

    def finished_after(path: Path) -> bytes:
        found = read(path)
        if path.name.endswith("rank0.part"):
            finish()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", finished_after)
        assert second.answered() is None
    assert [x.name for x in tmp_path.iterdir()] == ["cell.jsonl"]


@pytest.mark.parametrize(
    ("started", "noted"),
    [
        ("/usr/bin/sparsesight", ["sparsesight"]),
        ("/somewhere/sparsesight/__main__.py", ["sparsesight"]),
        ("benchmarks/meaningless.py", ["python", "benchmarks/meaningless.py"]),
    ],
)
def test_the_command_names_a_script_that_is_not_ours(started: str, noted: list[str]) -> None:
    assert _program(started) == noted
