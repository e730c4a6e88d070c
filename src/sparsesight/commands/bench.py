"""``sparsesight bench``: dense against sparse on this machine, beside what the arithmetic allows."""

from __future__ import annotations

import json
from typing import Any

import typer

from ..errors import SparseSightError
from .options import choose_method, parse_layers, parse_retain

SHAPE_HELP = "Random LLaVA of this shape, such as layers=24,hidden=1024,ffn=2816,visual=576,text=64."


def bench(
    model: str | None = typer.Option(None, help="Folder or Hub id of a model. Default: the bundled one."),
    shape: str | None = typer.Option(None, help=SHAPE_HELP),
    retain: str = typer.Option("192,128,64", help="Budgets, one row each: tokens or ratios."),
    method: str | None = typer.Option(None, help="Token-reduction method (see: sparsesight methods)."),
    layers: str | None = typer.Option(None, help="Pruning layers, such as 2,6,15."),
    batch: int = typer.Option(1, min=1, help="Prompts per forward."),
    repeats: int = typer.Option(7, min=1, help="Counted turns of every configuration."),
    steps: int = typer.Option(16, min=0, help="Decoding steps per turn."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 leaves torch's choice."),
    attention: str = typer.Option("sdpa", help="Attention implementation for --shape."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto."),
    dtype: str = typer.Option(
        "auto", help="float32, bfloat16, float16; auto: float32 on CPU, bfloat16 on CUDA."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON only."),
) -> None:
    """Measure prefill and decoding, dense and sparse, taking turns in one process."""
    if model is not None and shape is not None:
        raise SparseSightError("--model and --shape: give one of them")
    budgets = [parse_retain(part) for part in retain.split(",") if part.strip()]
    if not budgets:
        raise SparseSightError(f"--retain {retain!r}: give at least one budget")
    chosen = choose_method(method)
    options: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}

    import torch

    from ..bench import bench as measure
    from ..bench import environment
    from ..methods import make_method
    from ..shapes import repeat_prompt

    for budget in budgets:  # a wrong option fails before a model is loaded
        make_method(chosen, retain=budget, **options)
    if threads:
        torch.set_num_threads(threads)
    built, prompt, what = _subject(model, shape, device, dtype, attention)
    prompt = repeat_prompt(prompt, batch)
    rows = _with_progress(
        lambda tick: measure(
            built,
            prompt,
            budgets,
            method=chosen,
            options=options,
            repeats=repeats,
            steps=steps,
            progress=tick,
        ),
        (repeats + 1) * (2 * len(budgets) + 1),
    )
    weights = next(built.parameters())
    config = {
        "subject": what,
        "method": chosen,
        **options,
        "batch": batch,
        "repeats": repeats,
        "steps": steps,
        **environment(str(weights.device), weights.dtype),
    }
    if as_json:
        typer.echo(json.dumps({"config": config, "rows": rows}))
    else:
        _show(config, rows)


def _subject(
    model: str | None, shape: str | None, device: str, dtype: str, attention: str
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
        return *random_llava(sizes, getattr(torch, name), str(where), attention), str(sizes)
    from .. import bundled
    from ..images import open_image
    from .answering import prepare

    loaded = load_model(model, device, dtype)
    picture = bundled.default_picture()
    question = bundled.picture_questions()[picture.name][0]["question"]
    return loaded.model, dict(prepare(loaded, open_image(picture), question)), loaded.name


def _with_progress(work: Any, total: int) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        return work(lambda: bar.advance(task))


def _show(config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(", ".join(f"{k} {v}" for k, v in config.items()), soft_wrap=True, highlight=False)
    prefill = Table(
        "retain", "sparse ms", "dense ms", "speed-up", "FLOPs limit", "ratio", "measured limit", "overhead"
    )
    rest = Table("retain", "decode ms", "dense ms", "KV MB", "dense MB", "peak MB", "dense MB")
    for row in rows:
        prefill.add_row(
            str(row["retain"]),
            f"{row['prefill_sparse_ms']:.1f}",
            f"{row['prefill_dense_ms']:.1f}",
            f"{row['prefill_speedup']:.2f}",
            f"{row['flops_limit']:.2f}",
            f"{row['prefill_ratio_to_limit']:.2f}",
            f"{row['measured_limit']:.2f}",
            f"{100 * row['overhead_share']:.2f} %",
        )
        decode = [row["decode_sparse_ms"], row["decode_dense_ms"]]
        memory = [
            row[f"{what}_bytes"] / 1e6 for what in ("kv_sparse", "kv_dense", "peak_sparse", "peak_dense")
        ]
        rest.add_row(str(row["retain"]), *("-" if x is None else f"{x:.2f}" for x in (*decode, *memory)))
    prefill.title = "Prefill: medians; ratio = speed-up / FLOPs limit"
    rest.title = "Decoding, per token; KV cache after the prefill; peak of the prefill without the weights"
    console.print(prefill)
    console.print(rest)
    for row in rows:
        parts = ", ".join(f"{k} {100 * v:.2f} %" for k, v in row["overhead_parts"].items())
        console.print(f"retain {row['retain']}: of the prefill, {parts}", highlight=False)
        if row["flops_limit"] < 1.1:
            console.print(
                f"retain {row['retain']}: no gain here, the FLOPs limit itself is {row['flops_limit']:.2f}x"
            )
