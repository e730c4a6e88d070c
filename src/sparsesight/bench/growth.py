"""How time, memory and overhead grow with the number of visual tokens, drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SparseSightError
from .table import Row, markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Title, unit, keys of a method's number and of the dense one (None: the dense model has none), and what to divide by.
PANELS = (
    ("time to the first token", "ms", "first_token_sparse_ms", "first_token_dense_ms", 1.0),
    ("peak memory without weights", "MB", "peak_sparse_bytes", "peak_dense_bytes", 1e6),
    ("KV cache", "MB", "kv_sparse_bytes", "kv_dense_bytes", 1e6),
    ("overhead", "% of the sparse prefill", "overhead_share", None, 0.01),
)


def check_folder(folder: Path, plots: bool) -> None:
    """Make the folder for results, and find out that they cannot be written before computing them.

    Raises:
        SparseSightError: if it is no folder, cannot be written, or plots are wanted without matplotlib.
    """
    if plots:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise SparseSightError(
                "--out: growth plots need matplotlib: pip install 'sparsesight[plots]'"
            ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.json").touch()
    except OSError as error:
        raise SparseSightError(
            f"--out {str(folder)!r} cannot be written ({error.strerror}): choose another folder"
        ) from None


def save(folder: Path, config: Row, rows: Sequence[Row]) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and, for each batch of a sweep over visual tokens, ``growth-batch*.png``."""
    (folder / "bench.json").write_text(json.dumps({"config": config, "rows": rows}, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(config, rows), encoding="utf-8")
    written = [folder / "bench.json", folder / "bench.md"]
    for batch in sorted({row["batch"] for row in rows}):
        alike = [row for row in rows if row["batch"] == batch]
        if sweeps(alike):
            path = folder / f"growth-batch{batch}.png"
            draw(alike).savefig(path, dpi=130)
            written.append(path)
    return written


def sweeps(rows: Sequence[Row]) -> bool:
    """Whether there is a growth to draw: more than one number of visual tokens."""
    return len({row["visual"] for row in rows}) > 1


def draw(rows: Sequence[Row]) -> Figure:
    """A panel for each of :data:`PANELS` against the visual tokens: dense, and a line for each method and budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    panels: Any = figure.subplots(1, len(PANELS))
    for axes, (title, unit, sparse, dense, scale) in zip(panels, PANELS, strict=True):
        if dense is not None:
            once = {row["visual"]: row for row in rows}  # every row of a sweep has the same dense model
            _line(axes, list(once.values()), dense, scale, "dense", color="black", linewidth=2)
            axes.set_yscale("log")
        for name in dict.fromkeys((row["method"], row["retain"]) for row in rows):
            alike = [row for row in rows if (row["method"], row["retain"]) == name]
            _line(axes, alike, sparse, scale, f"{name[0]}, retain {name[1]}")
        counts = sorted({row["visual"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(n) for n in counts], rotation=45)
        axes.minorticks_off()
        axes.set(title=title, ylabel=unit, xlabel="visual tokens")
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def _line(axes: Axes, rows: Sequence[Row], key: str, scale: float, label: str, **style: Any) -> None:
    ordered = sorted(rows, key=lambda row: row["visual"])
    values = [row[key] / scale for row in ordered]
    axes.plot([row["visual"] for row in ordered], values, marker="o", markersize=4, label=label, **style)
