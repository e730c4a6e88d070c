"""The notebooks run from top to bottom, and are committed with what they print and draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled
from sparsesight.scenes import dataset
from tests.docs.blocks import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")

# Comparisons over all bundled pictures take a minute; that they run is seen on one, with two questions.
FEW = """
from sparsesight import bundled
from sparsesight.scenes import dataset
_pictures, _asked, _examples = bundled.pictures()[:1], bundled.picture_questions(), dataset.examples
bundled.pictures = lambda: _pictures
bundled.picture_questions = lambda: {name: asked[:2] for name, asked in _asked.items()}
dataset.examples = lambda split, scenes: list(_examples(split, 1))[:2]
"""
SHORTENED = ("right()",)  # cells with these print other numbers of fewer questions
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["tour", "your_own_method"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_with_outputs(path: Path) -> None:
    """Of one run from top to bottom, without errors, paths of a machine, or what a reader would wait for."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    text = path.read_text("utf-8")
    assert len(text) < 2_000_000 and str(ROOT) not in text and "/home/" not in text


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def test_cells_print_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a kernel; what the other notebook calls, other tests do."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((bundled, "pictures"), (bundled, "picture_questions"), (dataset, "examples")):
        monkeypatch.setattr(module, name, getattr(module, name))  # to have it back
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(FEW, names)
    for cell in nbformat.read(ROOT / "notebooks" / "your_own_method.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "notebook", "exec", dont_inherit=True), names)
            said = capsys.readouterr().out
            assert any(word in cell.source for word in SHORTENED) or said == printed(cell)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_prints_what_is_stored(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(FEW))
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # a cell that raises raises here
    code = [cell for cell in book.cells[1:] if cell.cell_type == "code"]
    for cell, stored in zip(
        code, (c for c in nbformat.read(path, 4).cells if c.cell_type == "code"), strict=True
    ):
        if not any(word in cell.source for word in SHORTENED):
            assert printed(cell) == printed(stored), "make notebooks stores the outputs of today"
    shown = [o for cell in code for o in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 1
