"""How time, memory and overhead grow with what a sweep varies, drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SparseSightError
from ..files import replace_file
from .fits import fits
from .slopes import exponent, slopes
from .sweep import AXES, Line, Row, label, lines
from .table import Table, markdown

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
        if not (folder / "bench.json").exists():
            replace_file(folder / "bench.json", "")
    except SparseSightError as error:
        raise SparseSightError(f"--out {str(folder)!r}: {error}: choose another folder") from None
    except OSError as error:
        raise SparseSightError(
            f"--out {str(folder)!r} cannot be written ({error.strerror}): choose another folder"
        ) from None


def sweep_tables(rows: Sequence[Row], memory: float | None) -> list[Table]:
    """What follows from several sizes: exponents, and what fits into so many bytes of ``memory``."""
    return [*slopes(rows), *(fits(rows, memory) if memory else ())]


def save(
    folder: Path, config: Row, rows: Sequence[Row], processor: bool = False, memory: float | None = None
) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and ``growth-AXIS.png`` for each axis that is varied.

    Where others are varied as well, there is a drawing for each of their values, which its name has.
    ``processor`` is for :func:`panels`, ``memory`` for :func:`.fits.fits`.
    """
    replace_file(folder / "bench.json", json.dumps({"config": config, "rows": rows}, indent=1) + "\n")
    page = markdown(config, rows, sweep_tables(rows, memory))
    replace_file(folder / "bench.md", page)
    written = [folder / "bench.json", folder / "bench.md"]
    for axis in AXES:
        for name, alike in _drawings(rows, axis).items():
            path = folder / f"growth-{name}.png"
            drawn = BytesIO()
            draw(alike, axis, processor).savefig(drawn, format="png", dpi=130)
            replace_file(path, drawn.getvalue())
            written.append(path)
    return written


def _drawings(rows: Sequence[Row], axis: str) -> dict[str, list[Line]]:
    """The lines of each drawing along ``axis``, by its name."""
    varied = [other for other in AXES if other != axis and len({row[other] for row in rows}) > 1]
    found: dict[str, list[Line]] = {}
    for line in lines(rows, axis):
        name = "-".join([axis, *(f"{other}{line.fixed[other]}" for other in varied)])
        found.setdefault(name, []).append(line)
    return found


def draw(drawn: Sequence[Line], axis: str, processor: bool = False) -> Figure:
    """The :func:`panels` against an axis: dense, and a line for each method and budget, with their exponents."""
    from matplotlib.figure import Figure

    shown = panels(processor)
    figure = Figure(figsize=(16, 4), layout="constrained")
    grid: Any = figure.subplots(1, len(shown))
    dense = {size: row for line in drawn for size, row in zip(line.sizes, line.rows, strict=True)}
    ticks = sorted(dense)
    for axes, panel in zip(grid, shown, strict=True):
        if panel.dense is not None:  # every row of a size has the same dense model
            values = [dense[size][panel.dense] / panel.scale for size in ticks]
            _plot(axes, ticks, values, "dense", True, color="black", linewidth=2)
            axes.set_yscale("log")
        for line in drawn:
            values = [row[panel.sparse] / panel.scale for row in line.rows]
            _plot(axes, line.sizes, values, label(line.method, line.retain), panel.dense is not None)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks], rotation=45)
        axes.set_xticks([], minor=True)
        if panel.dense is None:
            axes.set_ylim(bottom=0)
        axes.set(title=panel.title, ylabel=panel.unit, xlabel=AXES[axis])
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="x-small")
    return figure


def _plot(axes: Axes, sizes: list[int], values: list[float], name: str, sloped: bool, **style: Any) -> None:
    slope = exponent(sizes, values) if sloped else None
    text = name if slope is None else f"{name}: n^{slope:.2f}"
    axes.plot(sizes, values, marker="o", markersize=4, label=text, **style)
