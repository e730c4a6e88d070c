"""``sparsesight bench``: dense against sparse on this machine, and the limit set by arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import SparseSightError
from ..files import check_parent
from ..method_names import DEFAULT
from ..terminal import rich_text
from .options import (
    BUDGETS,
    AsJson,
    Layers,
    Model,
    SameRetain,
    TextTower,
    choose_budgets,
    choose_methods,
    complete_method,
    parse_counts,
    parse_layers,
)
from .progress import loaded_model, progress_bar

if TYPE_CHECKING:
    from ..bench.table import Table
    from ..methods import Method
    from ..random_models import Shape

SHAPE_HELP = "A random LLaVA of this shape: NAME=NUMBER, with commas, as in the examples below."


def bench(
    model: Model = None,
    shape: str | None = typer.Option(None, help=SHAPE_HELP),
    methods: str | None = typer.Option(
        None,
        autocompletion=complete_method,
        help="Methods, with commas, such as fastv,random ('sparsesight methods' lists them); dense is always "
        "measured too.",
        show_default=DEFAULT,
    ),
    retain: str | None = typer.Option(
        None,
        help="Budgets, which are costs: at 64 (or at a ratio) each method costs what sparsevlm+ does at retain 64, but "
        ":published ones. With --same-retain: each method's own average.",
        show_default=BUDGETS,
    ),
    same_retain: SameRetain = False,
    layers: Layers = None,
    batch: str = typer.Option("1", help="Prompts per forward; several values are a sweep, such as 1,4."),
    visual: str | None = typer.Option(
        None, help="With --shape: a sweep over its visual tokens, such as 576,1152,2304.", show_default=False
    ),
    repeats: int = typer.Option(
        7, min=1, help="Measured turns of every configuration, after one warm-up turn."
    ),
    steps: int = typer.Option(16, min=0, help="Decoding steps per turn."),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0 keeps torch's default."),
    attention: str = typer.Option("sdpa", help="Attention implementation for --shape."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto.", envvar="SPARSESIGHT_DEVICE"),
    dtype: str = typer.Option(
        "auto",
        help="float32, bfloat16, float16; auto: float32 on CPU, bfloat16 on CUDA.",
        envvar="SPARSESIGHT_DTYPE",
    ),
    fast: str | None = typer.Option(
        None,
        help="Layers between two stages as one program: graph (CUDA), compile, plain, or auto for the device's best; "
        "the dense model is also measured on that path.",
        show_default="off",
    ),
    text_tower: TextTower = None,
    memory: float | None = typer.Option(
        None,
        min=0.001,
        help="GB of memory: estimate which batch and how many visual tokens fit, from a sweep of --batch or --visual.",
        show_default=False,
    ),
    details: bool = typer.Option(
        False,
        "--details",
        help="Print all tables: limits of the device, parts of the mechanism, sizes, memory.",
    ),
    out: Path | None = typer.Option(None, help="Folder for bench.json and bench.md.", show_default=False),
    as_json: AsJson = False,
) -> None:
    """Measure the time to first token, prefill and decoding, dense and sparse, alternating in one process.

    A method with :published after its name is measured as published: --retain then
    selects its own schedule at that budget, whatever it costs.

    Environment: RETAIN_TOKN=192 is a default for --retain, and USE_VERSION=1_0
    (sparsevlm:published) or 2_0 (sparsevlm+:published) one for --methods.
    """
    if out is not None:
        check_parent(out, "--out")
    if model is not None and shape is not None:
        raise SparseSightError("--model and --shape: give one of them")
    if visual is not None and shape is None:
        raise SparseSightError(f"--visual {visual!r} needs --shape: a real model has its own size")
    wanted = choose_budgets(retain)
    budgets = [x for x in wanted if not isinstance(x, tuple)]
    if len(budgets) < len(wanted):
        raise SparseSightError(
            f"--retain {retain}: bench takes averages and ratios; counts per stage are for ask, and eval --same-retain"
        )
    names = [name for name in choose_methods(methods) if name != "dense"]
    if not names:
        raise SparseSightError(f"--methods {methods!r}: give at least one method besides dense")
    pruning = None if layers is None else parse_layers(layers)
    batches = parse_counts(batch, "--batch")
    lengths: tuple[int | None, ...] = (None,) if visual is None else parse_counts(visual, "--visual")
    if memory is not None and max(len(batches), len(lengths)) < 2:
        raise SparseSightError(
            f"--memory {memory:g}: the estimate needs peaks of several sizes; give two or more values of "
            "--batch or --visual"
        )

    import torch

    from ..bench import bench as measure
    from ..bench import environment
    from ..bench.cases import first_prompt, make_cases
    from ..bench.fits import fits
    from ..bench.folder import check_folder, save
    from ..hf.compiled.options import parse_fast
    from ..hf.decoder_shape import decoder_shape
    from ..hf.loading import check_attention, check_text_tower
    from ..hf.model_parts import inspect_model
    from ..hf.running import out_of_memory
    from ..random_models import Shape, repeat_prompt

    # Wrong options fail before a model is loaded.
    how_fast = None if fast is None else parse_fast(fast == "auto" or fast)
    chosen = {name: _at_layers(name, pruning) for name in names}
    check_text_tower(names, text_tower)
    if text_tower is not None and shape is not None:
        raise SparseSightError(
            f"--text-tower {text_tower!r}: the random model of --shape has no CLIP; pass --model"
        )
    check_attention(attention)
    shapes = [None if shape is None else Shape.parse(shape, visual=length) for length in lengths]
    for sizes in shapes:
        if sizes is not None:
            make_cases(chosen, budgets, sizes.decoder, sizes.prompt, same_retain=same_retain)
    if out is not None:
        check_folder(out)
    if threads:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    for sizes in shapes:
        built, prompt, what, tower = _subject(model, sizes, device, dtype, attention, text_tower)
        weights = next(built.parameters())
        if weights.device.type not in ("cpu", "cuda"):
            raise SparseSightError(
                f"--device {device!r}: timing is not supported on this device, use cpu or cuda"
            )
        parts = inspect_model(built)
        cases = make_cases(
            chosen,
            budgets,
            decoder_shape(parts),
            first_prompt(built, prompt),
            parts.prunable,
            same_retain=same_retain,
        )
        machine = environment(str(weights.device), weights.dtype)
        config = {
            "subject": what,
            "layers": layers or "by the method",
            "repeats": repeats,
            "steps": steps,
            **machine,
        }
        for count in batches:
            turns = 2 * len(cases) + 1 + (how_fast is not None)
            with out_of_memory(weights.device), progress_bar((repeats + 1) * turns, "measuring") as tick:
                many = repeat_prompt(prompt, count)
                rows += measure(
                    built,
                    many,
                    cases,
                    repeats=repeats,
                    steps=steps,
                    progress=tick,
                    text_tower=tower,
                    fast=how_fast,
                )
            if out is not None:  # after each, so that a stopped sweep leaves its results
                save(out, config, rows, fits(rows, memory))
    if as_json:
        typer.echo(json.dumps({"config": config, "rows": rows}))
    else:
        _show(config, rows, fits(rows, memory), details, same_retain)


def _at_layers(name: str, layers: tuple[int, ...] | None) -> Method:
    """The method that was named, pruning after ``layers``."""
    from ..methods import is_published, parse

    method = parse(name)
    if layers is None:
        return method
    if is_published(name):
        raise SparseSightError(
            f"--layers: those of {name!r} are part of the published setting, leave them out"
        )
    if not method.one_budget:
        raise SparseSightError(f"--layers: the parts of {name!r} have their own layers, set them in brackets")
    return replace(method, layers=layers)


def _subject(
    model: str | None, sizes: Shape | None, device: str, dtype: str, attention: str, text_tower: str | None
) -> tuple[Any, dict[str, Any], str, Any]:
    """The model to measure, its prompt, its name, and the text tower if one was named."""
    import torch

    from ..hf.loading import check_dtype, pick_device
    from ..hf.running import out_of_memory

    if sizes is not None:
        from ..random_models import random_llava

        where = pick_device(device)
        check_dtype(dtype)
        name = dtype if dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
        return *random_llava(sizes, getattr(torch, name), str(where), attention), str(sizes), None
    from rich.console import Console

    from .. import bundled
    from ..bench.work import run_once
    from ..compare import prepare
    from ..hf.running import first_run
    from ..images import open_image

    picture = bundled.default_picture()
    question = bundled.picture_questions()[picture.name][0]["question"]
    with loaded_model(Console(stderr=True), model, device, dtype, text_tower=text_tower) as loaded:
        prompt = dict(prepare(loaded, open_image(picture), question))
        with out_of_memory(loaded.model.device), first_run(loaded.name):
            run_once(loaded.model, prompt, 1)
    return loaded.model, prompt, loaded.name, loaded.text_tower


def _show(
    config: dict[str, Any], rows: list[dict[str, Any]], more: list[Table], details: bool, same_retain: bool
) -> None:
    from rich.console import Console

    from ..bench.headline import headlines, own_work, summary
    from ..bench.sweep import own
    from ..bench.table import ceilings, equality, remarks, tables
    from ..equal_cost import EQUAL
    from .tables import print_table

    console = Console(highlight=False)
    for text in headlines(rows):
        console.print(rich_text(text, "bold"))
    unequal = any(abs(row["cost_deviation"]) > EQUAL for row in rows)
    if len({row["method"] for row in rows}) > 1 or (unequal and not same_retain):
        console.print(rich_text(equality(rows)))
    for made in (summary(rows), *(tables(rows) if details else ()), *more):
        print_table(console, made)
    more_behind = "--details prints all tables" + ("" if own(rows) else ", with each method's own retain")
    for text in (*own_work(rows), *remarks(rows), *(ceilings(rows) if details else [more_behind])):
        console.print(rich_text(text))
    console.print(rich_text(", ".join(f"{k} {v}" for k, v in config.items()), "dim"))
