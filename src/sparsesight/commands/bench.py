"""``sparsesight bench``: dense against sparse on this machine, beside what the arithmetic allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SparseSightError
from .options import METHOD, choose_method, parse_counts, parse_layers, parse_retain, split

if TYPE_CHECKING:
    from ..bench import Case
    from ..shapes import Shape

SHAPE_HELP = "Random LLaVA of this shape, such as layers=24,hidden=1024,ffn=2816,visual=576,text=64."


def bench(
    model: str | None = typer.Option(None, help="Folder or Hub id of a model. Default: the bundled one."),
    shape: str | None = typer.Option(None, help=SHAPE_HELP),
    methods: str | None = typer.Option(
        None,
        help="Methods side by side, such as sparsevlm+,sparsevlm,random (see: sparsesight methods); dense is always "
        "measured beside them.",
        show_default=METHOD,
    ),
    retain: str = typer.Option("192,128,64", help="Budgets of each method: tokens or ratios."),
    layers: str | None = typer.Option(None, help="Pruning layers, such as 2,6,15."),
    batch: str = typer.Option("1", help="Prompts per forward; several are a sweep, such as 1,4."),
    visual: str | None = typer.Option(
        None, help="With --shape: a sweep over its visual tokens, such as 576,1152,2304.", show_default=False
    ),
    repeats: int = typer.Option(7, min=1, help="Counted turns of every configuration, after one to warm up."),
    steps: int = typer.Option(16, min=0, help="Decoding steps per turn."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 leaves torch's choice."),
    attention: str = typer.Option("sdpa", help="Attention implementation for --shape."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto."),
    dtype: str = typer.Option(
        "auto", help="float32, bfloat16, float16; auto: float32 on CPU, bfloat16 on CUDA."
    ),
    out: Path | None = typer.Option(
        None, help="Folder for bench.json, bench.md and growth plots (PNG).", show_default=False
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON only."),
) -> None:
    """Measure the first token, prefill and decoding, dense and sparse, taking turns in one process.

    Environment: USE_VERSION=1_0 (sparsevlm) or 2_0 (sparsevlm+) is a default for --methods.
    """
    if model is not None and shape is not None:
        raise SparseSightError("--model and --shape: give one of them")
    if visual is not None and shape is None:
        raise SparseSightError(
            f"--visual {visual!r} needs --shape: the pictures of a real model have their own size"
        )
    budgets = [parse_retain(part) for part in split(retain)]
    if not budgets:
        raise SparseSightError(f"--retain {retain!r}: give at least one budget")
    names = [name for name in split(choose_method(methods)) if name != "dense"]
    if not names:
        raise SparseSightError(f"--methods {methods!r}: give at least one beside dense")
    options: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}
    batches = parse_counts(batch, "--batch")
    lengths = None if visual is None else parse_counts(visual, "--visual")

    import torch

    from ..bench import Case, environment
    from ..bench import bench as measure
    from ..bench.growth import check_folder, save
    from ..methods import make_method
    from ..shapes import Shape, repeat_prompt
    from .loading import out_of_memory

    # A wrong option fails before a model is loaded.
    cases = [Case(x, r, make_method(x, retain=r, **options)) for x in names for r in budgets]
    if shape is not None:
        _check_budgets(cases, Shape.parse(shape), lengths)
    if out is not None:
        check_folder(out, plots=lengths is not None and len(lengths) > 1)
    if threads:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for length in lengths or (None,):
        built, prompt, what = _subject(model, shape, length, device, dtype, attention)
        weights = next(built.parameters())
        if weights.device.type not in ("cpu", "cuda"):
            raise SparseSightError(f"--device {device!r}: this device has no clock here, use cpu or cuda")
        machine = environment(str(weights.device), weights.dtype)
        config = {"subject": what, **options, "repeats": repeats, "steps": steps, **machine}
        for count in batches:
            with out_of_memory(weights.device), _progress((repeats + 1) * (2 * len(cases) + 1)) as tick:
                many = repeat_prompt(prompt, count)
                rows += measure(built, many, cases, repeats=repeats, steps=steps, progress=tick)
    if out is not None:
        save(out, config, rows)
    if as_json:
        typer.echo(json.dumps({"config": config, "rows": rows}))
    else:
        _show(config, rows)


def _check_budgets(cases: Sequence[Case], sizes: Shape, lengths: Sequence[int] | None) -> None:
    """Find out that a budget cannot be met, or leaves nothing to prune, before measuring another one for minutes."""
    for case in cases:
        where = case.method.stage_layers(sizes.layers)
        for length in lengths or (sizes.visual,):
            if not case.method.data_dependent and not case.method.plan(length, sizes.layers, where).stages:
                raise SparseSightError(
                    f"--retain {case.retain}: {case.name} keeps all {length} visual tokens, there is nothing to measure"
                )


def _subject(
    model: str | None, shape: str | None, visual: int | None, device: str, dtype: str, attention: str
) -> tuple[Any, dict[str, Any], str]:
    """The model to measure, its prompt, and what to call it."""
    import torch

    from .loading import check_dtype, load_model, pick_device

    if shape is not None:
        from ..shapes import Shape, random_llava

        sizes = Shape.parse(shape)
        where = pick_device(device)
        check_dtype(dtype)
        name = dtype if dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
        chosen = sizes if visual is None else replace(sizes, visual=visual)
        return *random_llava(chosen, getattr(torch, name), str(where), attention), str(sizes)
    from .. import bundled
    from ..images import open_image
    from .answering import prepare

    loaded = load_model(model, device, dtype)
    picture = bundled.default_picture()
    question = bundled.picture_questions()[picture.name][0]["question"]
    return loaded.model, dict(prepare(loaded, open_image(picture), question)), loaded.name


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda: bar.advance(task)


def _show(config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..bench.table import remarks, tables

    console = Console()
    console.print(", ".join(f"{k} {v}" for k, v in config.items()), soft_wrap=True, highlight=False)
    for made in tables(rows):
        table = Table(*made.heads, title=made.title)
        for cells in made.cells:
            table.add_row(*cells)
        console.print(table)
    for text in remarks(rows):
        console.print(text, highlight=False)
