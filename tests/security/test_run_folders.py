"""Run folders that are damaged, planted with links or on a full disk: one sentence that names the file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError, files
from sparsesight.eval.cell_file import CellFile
from sparsesight.eval.report import write_report
from sparsesight.eval.run_dir import Config, RunFolder, check_usable
from sparsesight.eval.sweep import RunSpec, sweep
from tests.eval.made_samples import Made

TASK = Made(count=8)
CELLS = [RunSpec("dense", None, None)]
CONFIG = Config({"batch_size": 4}, {"made": "abc"}, {"dense": None})
SAMPLES = "samples/made/dense.jsonl"
PART = "samples/made/dense.rank0.part"
LATENCY = "samples/made/dense.latency.json"
FILES = ("config.json", "run.json", SAMPLES, LATENCY, "rank0.lock", "summary.json", "table.md", "table.csv")
DEEP = "[" * 100_000 + "]" * 100_000


def fill(path: Path) -> None:
    """The whole of what ``eval`` does with a folder."""
    check_usable(path, resume=True)
    with RunFolder(path, CONFIG, resume=True) as folder:
        sweep([TASK], CELLS, folder, batch_size=4)
        write_report(folder, [TASK], CELLS, {}, plots=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A good run folder: text by path, the answered batches among it."""
    path = tmp_path_factory.mktemp("run")
    fill(path)
    found = {name: (path / name).read_text() for name in FILES}
    with RunFolder(path / "open", CONFIG) as folder:
        file = folder.cell("made", "dense")
        with TASK.answering(None) as answer:
            file.append(0, answer(TASK.items[:4]))
            file.append(1, answer(TASK.items[4:]))
    return {**found, PART: (path / "open" / PART).read_text()}


def lay(path: Path, filled: dict[str, str], *, done: bool) -> None:
    for name, text in filled.items():
        if (name in (SAMPLES, LATENCY) and not done) or (name == PART and done):
            continue
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)


def refused(path: Path, name: str) -> str:
    with pytest.raises(SparseSightError) as caught:
        fill(path)
    said = str(caught.value)
    assert Path(name).name in said and len(said) < 2000 and "\n" not in said
    return said


GARBAGE: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "x\n",
    "no text": b"\xff\xfe\0\n",
    "null": "null\n",
    "number": "3\n",
    "text": '"x"\n',
    "empty object": "{}\n",
    "list": "[1]\n",
    "infinite": "Infinity\n",
    "deep": DEEP + "\n",
    "digits": "9" * 5000 + "\n",
    "duplicate": '{"batch": 0, "batch": 0}\n',
}


@pytest.mark.parametrize("case", GARBAGE)
@pytest.mark.parametrize("name", ["config.json", "run.json", SAMPLES, LATENCY, PART])
def test_garbage(tmp_path: Path, filled: dict[str, str], name: str, case: str) -> None:
    lay(tmp_path, filled, done=name != PART)
    text = GARBAGE[case]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if (name, case) in (("run.json", "list"), (PART, "empty")):
        fill(tmp_path)  # nothing of what is read is wrong
        return
    refused(tmp_path, name)


def replaced(line: str, path: list[str | int], value: Any) -> str:
    """A line of JSON with one value of another kind."""
    data = at = json.loads(line)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(data)


WRONG: list[Any] = [None, True, -1, 1e300, float("inf"), float("nan"), 10**400, "x", [], {}, [[1]]]
FIELDS: dict[str, list[tuple[list[str | int], tuple[int, ...]]]] = {
    # Path of a field, and which of the wrong values are right there.
    SAMPLES: [
        (["id"], (7,)),
        (["answer"], (7,)),
        (["unit"], (7,)),
        (["tags"], (8,)),
        (["scores"], (9,)),
        (["scores", "correct"], (2,)),
        (["cost"], ()),
        (["cost", "macs_dense"], ()),
        (["cost", "equal_tokens"], (2,)),
        (["cost", "kept"], (8, 10)),
        (["cost", "note"], (7,)),
    ],
    PART: [
        (["batch"], ()),
        (["answers"], ()),
        (["answers", 0], ()),
        (["answers", 0, "text"], (7,)),
        (["answers", 0, "prefill_ms"], (0, 2)),
        (["answers", 0, "cost"], ()),
        (["answers", 0, "cost", "kv_bytes_sparse"], ()),
    ],
    LATENCY: [(["prefill_ms"], (2,)), (["samples"], ())],
    "config.json": [(["settings"], (9,)), (["tasks"], (9,)), (["cells"], (9,))],
}


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_types(tmp_path: Path, filled: dict[str, str], name: str) -> None:
    lines = filled[name].rstrip("\n").split("\n") if name in (SAMPLES, PART) else [filled[name]]
    lay(tmp_path, filled, done=name != PART)
    for path, right in FIELDS[name]:
        for number, value in enumerate(WRONG):
            if number in right:
                continue
            text = "\n".join([replaced(lines[0], path, value), *lines[1:]]) + "\n"
            (tmp_path / name).write_text(text)
            with pytest.raises(SparseSightError, match=Path(name).name) as caught:
                read(tmp_path, name)
            said = str(caught.value)
            assert ("damaged" in said or "configuration" in said) and len(said) < 2000, (path, value)


def read(path: Path, name: str) -> None:
    """One file of a run folder."""
    if name == "config.json":
        check_usable(path, resume=True)
        return
    cell = CellFile(path / SAMPLES.removesuffix(".jsonl"), 0, path)
    if name == PART:
        cell.answered([4, 4])
    elif name == SAMPLES:
        cell.samples()
    else:
        cell.prefill_ms()


@pytest.mark.parametrize("change", ["other batch", "short batch", "other ids", "other scores"])
def test_what_belongs_to_another_task(tmp_path: Path, filled: dict[str, str], change: str) -> None:
    name = PART if "batch" in change else SAMPLES
    lay(tmp_path, filled, done=name == SAMPLES)
    lines = [json.loads(line) for line in filled[name].splitlines()]
    if change == "other batch":
        lines[0]["batch"] = 999
    elif change == "short batch":
        lines[0]["answers"].pop()
    elif change == "other ids":
        lines[0]["id"] = "x"
    else:
        lines[0]["scores"] = {"rouge": 1.0}
    (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "damaged" in refused(tmp_path, name)


def link(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


def pipe(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def directory(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


PLANTED: dict[str, Callable[[Path, Path], None]] = {"link": link, "pipe": pipe, "directory": directory}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", ["config.json", "run.json", SAMPLES, LATENCY, PART, "rank0.lock"])
def test_planted_in_place_of_a_file(tmp_path: Path, filled: dict[str, str], name: str, kind: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.write_text("theirs")
    lay(run, filled, done=name != PART)
    PLANTED[kind](run / name, outside)
    refused(run, name)
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["summary.json", "table.md", "table.csv", "summary.json.new", "run.json.new"]
)
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, filled: dict[str, str], name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.write_text("theirs")
    lay(run, filled, done=True)
    link(run / name, outside)
    if name == "summary.json":
        refused(run, name)
    else:
        fill(run)
    assert outside.read_text() == "theirs" and not (run / "table.md").is_symlink()


def test_a_hard_link_is_not_written_through(tmp_path: Path, filled: dict[str, str]) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    lay(run, filled, done=False)
    outside.write_text(filled[PART].split("\n")[0] + "\n")
    (run / PART).unlink()
    os.link(outside, run / PART)
    before = outside.read_text()
    refused(run, PART)
    assert outside.read_text() == before


@pytest.mark.parametrize("name", ["samples", "samples/made"])
def test_a_folder_that_is_a_link_or_a_file(tmp_path: Path, filled: dict[str, str], name: str) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    lay(run, {k: v for k, v in filled.items() if not k.startswith("samples")}, done=False)
    (run / name).parent.mkdir(exist_ok=True)
    link(run / name, outside)
    refused(run, name)
    assert not list(outside.iterdir())
    (run / name).unlink()
    (run / name).write_text("x")
    refused(run, name)


def test_parts_with_strange_names_are_left_alone(tmp_path: Path, filled: dict[str, str]) -> None:
    lay(tmp_path, filled, done=False)
    for word in ("x", "-1", "٣", "00", "9" * 30, ""):
        (tmp_path / f"samples/made/dense.rank{word}.part").write_text("garbage\n")
    fill(tmp_path)


@pytest.mark.parametrize("at", range(6))
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Wherever it strikes: one sentence, whole files, and a run that goes on when there is room again."""
    good = tmp_path / "good"
    fill(good)
    writes, sync = [0], os.fsync

    def full(descriptor: int) -> None:
        writes[0] += 1
        if writes[0] == at + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SparseSightError, match="No space left"):
        fill(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.new"))
    monkeypatch.setattr(os, "fsync", sync)
    fill(tmp_path / "run")
    for name in (SAMPLES, "summary.json", "table.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (good / name).read_bytes()


@pytest.mark.parametrize("value", ["a\0b", "x" * 5000])
def test_a_folder_that_cannot_be(tmp_path: Path, value: str) -> None:
    with pytest.raises(SparseSightError, match="--out"):
        fill(tmp_path / value)


def test_a_written_file_is_whole_or_not_there(tmp_path: Path) -> None:
    files.replace_file(tmp_path / "a", "one")
    files.replace_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(SparseSightError, match="cannot be written"):
        files.replace_file(tmp_path / "no" / "a", "x")
