"""The folder of a benchmark's results: ``bench.json`` and ``bench.md``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import SparseSightError
from ..files import check_parent, replace_file
from .sweep import Row
from .table import Table, markdown


def check_folder(folder: Path) -> None:
    """Make the folder, so that one that cannot be written is found before anything is measured.

    Raises:
        SparseSightError: if it is no folder or cannot be written.
    """
    check_parent(folder, "--out")
    try:
        folder.mkdir(exist_ok=True)
        if not (folder / "bench.json").exists():
            replace_file(folder / "bench.json", "")
    except (SparseSightError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SparseSightError(
            f"--out {str(folder)!r} cannot be written ({reason}): choose another folder"
        ) from None


def save(folder: Path, config: Row, rows: Sequence[Row], more: Sequence[Table] = ()) -> None:
    """Write the rows as JSON, and their tables, followed by ``more``, as Markdown."""
    replace_file(folder / "bench.json", json.dumps({"config": config, "rows": rows}, indent=1) + "\n")
    replace_file(folder / "bench.md", markdown(config, rows, more))
