"""Run the notebooks and store what they print and draw: ``make notebooks``."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
TIMEOUT = 1800  # seconds of one cell


def store(path: Path, folder: Path) -> None:
    """Run a notebook in ``folder`` from top to bottom and write it back with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; nothing is written then.
    """
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times, which differ from run to run
        if cell.cell_type == "code":
            # Progress bars and warnings are of this machine.
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    book.metadata.pop("widgets", None)
    nbformat.write(book, path)


def main() -> None:
    import tempfile

    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            store(path, Path(folder))


if __name__ == "__main__":
    main()
