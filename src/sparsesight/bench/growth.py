"""How time, memory and overhead grow with the number of visual tokens, drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SparseSightError
from .fits import fits
from .table import Row, markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Panel(NamedTuple):
    title: str
    unit: str
    sparse: str  # key of a method's number
    dense: str | None  # key of the dense one, if there is any
    scale: float  # what to divide by


def panels(processor: bool) -> tuple[Panel, ...]:
    """What is drawn; times by the wall clock (CUDA: events), or of the processor, which a loaded machine disturbs less.

    On one thread the two are the same on a quiet machine.
    """
    end, clock = ("_cpu", "processor time") if processor else ("", "time")
    return (
        Panel(
            f"{clock} to the first token",
            "ms",
            f"first_token_sparse{end}_ms",
            f"first_token_dense{end}_ms",
            1,
        ),
        Panel("peak memory without weights", "MB", "peak_sparse_bytes", "peak_dense_bytes", 1e6),
        Panel("KV cache", "MB", "kv_sparse_bytes", "kv_dense_bytes", 1e6),
        Panel(f"overhead, {clock}", "% of the sparse prefill", f"overhead_share{end}", None, 0.01),
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


def save(
    folder: Path, config: Row, rows: Sequence[Row], processor: bool = False, memory: float | None = None
) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and, for each batch of a sweep over visual tokens, ``growth-batch*.png``.

    ``processor`` is for :func:`panels`, ``memory`` for :func:`.fits.fits`.
    """
    (folder / "bench.json").write_text(json.dumps({"config": config, "rows": rows}, indent=1) + "\n")
    (folder / "bench.md").write_text(
        markdown(config, rows, fits(rows, memory) if memory else ()), encoding="utf-8"
    )
    written = [folder / "bench.json", folder / "bench.md"]
    for batch in sorted({row["batch"] for row in rows}):
        alike = [row for row in rows if row["batch"] == batch]
        if sweeps(alike):
            path = folder / f"growth-batch{batch}.png"
            draw(alike, processor).savefig(path, dpi=130)
            written.append(path)
    return written


def sweeps(rows: Sequence[Row]) -> bool:
    """Whether there is a growth to draw: more than one number of visual tokens."""
    return len({row["visual"] for row in rows}) > 1


def draw(rows: Sequence[Row], processor: bool = False) -> Figure:
    """The :func:`panels` against the visual tokens: dense, and a line for each method and budget."""
    from matplotlib.figure import Figure

    drawn = panels(processor)
    figure = Figure(figsize=(15, 4), layout="constrained")
    grid: Any = figure.subplots(1, len(drawn))
    for axes, panel in zip(grid, drawn, strict=True):
        if panel.dense is not None:
            once = {row["visual"]: row for row in rows}  # every row of a sweep has the same dense model
            _line(axes, list(once.values()), panel.dense, panel.scale, "dense", color="black", linewidth=2)
            axes.set_yscale("log")
        for name in dict.fromkeys((row["method"], row["retain"]) for row in rows):
            alike = [row for row in rows if (row["method"], row["retain"]) == name]
            _line(
                axes,
                alike,
                panel.sparse,
                panel.scale,
                name[0] if name[1] is None else f"{name[0]}, retain {name[1]}",
            )
        counts = sorted({row["visual"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(n) for n in counts], rotation=45)
        axes.set_xticks([], minor=True)
        if panel.dense is None:
            axes.set_ylim(bottom=0)
        axes.set(title=panel.title, ylabel=panel.unit, xlabel="visual tokens")
        axes.grid(alpha=0.3)
    grid[0].legend(frameon=False, fontsize="small")
    return figure


def _line(axes: Axes, rows: Sequence[Row], key: str, scale: float, label: str, **style: Any) -> None:
    ordered = sorted(rows, key=lambda row: row["visual"])
    values = [row[key] / scale for row in ordered]
    axes.plot([row["visual"] for row in ordered], values, marker="o", markersize=4, label=label, **style)
