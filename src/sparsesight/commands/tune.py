"""``sparsesight tune``: the cheapest setting that keeps the answers to one's own questions."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..terminal import echo, rich_text
from .options import (
    AsJson,
    Device,
    Dtype,
    Model,
    TextTower,
    TrustRemoteCode,
    complete_method,
    parse_layers,
    split_list,
)
from .progress import progress_bar

if TYPE_CHECKING:
    from ..eval.options import EvalOptions
    from ..eval.own.data import OwnData
    from ..eval.tune.result import Promise
    from ..eval.tune.settings import Setting

# The default and the best of the others before and inside the decoder, at ratios, which suit pictures of any size.
METHODS, BUDGETS = f"{DEFAULT},cdpruner,sparsevlm+", "0.7,0.5,0.35,0.2"


def tune(
    rows: str = typer.Argument(
        ..., metavar="ROWS", help="Own data: a .jsonl or .csv file, a folder of pictures, or of a dataset."
    ),
    model: Model = None,
    keep: float = typer.Option(0.98, help="The share of answers that is to stay what it was."),
    confidence: float = typer.Option(0.95, help="With which confidence this is to be shown."),
    methods: str = typer.Option(
        METHODS,
        autocompletion=complete_method,
        help="Methods to choose from, with commas; options go in brackets.",
    ),
    retain: str = typer.Option(
        BUDGETS, help="Budgets of each: ratios, which suit pictures of all sizes, or tokens."
    ),
    layers: str | None = typer.Option(
        None,
        help="Pruning layers to choose from, in brackets: (2,6,15),(4,8,15).",
        show_default="by the method",
    ),
    by: str = typer.Option(
        "flops", help="What is to be least: flops, or time (to the first token, measured)."
    ),
    question: str | None = typer.Option(
        None, help="Asked about every picture of a folder.", show_default=False
    ),
    limit: int | None = typer.Option(None, min=1, help="Maximum number of rows.", show_default="all"),
    max_new_tokens: int = typer.Option(32, min=1, help="Maximum length of an answer."),
    batch_size: int = typer.Option(8, min=1, help="Rows per forward."),
    out: Path = typer.Option(Path("tune-run"), help="The folder of the result."),
    resume: bool = typer.Option(False, "--resume", help="Continue in the folder; nothing is asked again."),
    prompts: str = typer.Option("auto", help="Prompts: own, llava-1.5, or auto, as for eval."),
    text_tower: TextTower = None,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Find the cheapest setting at which the model's answers to your questions stay what they are.

    No labels are needed: answers are held against the dense model's. A quarter of the
    rows chooses among the settings, the others are held back and confirm the choice, so
    that the promise (--keep, with --confidence) holds over the whole search, for
    questions and pictures like those given. Rows about one picture, or of one "group",
    count as one; pictures that are nearly the same are named.

    The folder gets sparsesight.json, which ask, serve and eval take as --settings,
    Python as sparsify(model, settings=...) and vLLM as --additional-config; a table, a
    plot, and a page of all rows whose answers changed.
    """
    from ..core.retain import parse_retain
    from ..eval.options import EvalOptions
    from ..eval.own.data import OwnData
    from ..eval.own.read import read_rows
    from ..eval.run_dir import check_usable
    from ..eval.tune.result import Promise
    from ..eval.tune.settings import make_settings
    from ..hf.loading import check_text_tower, quiet

    promise = Promise(_share(keep, "--keep"), _share(confidence, "--confidence"), by)
    if by not in ("flops", "time"):
        raise SparseSightError(f"--by {by!r} is unknown: choose flops or time")
    depths = [] if layers is None else [parse_layers(x.strip("()")) for x in split_list(layers, "--layers")]
    budgets = [parse_retain(x.strip("()")) for x in split_list(retain, "--retain")]
    names = split_list(methods, "--methods")
    settings = make_settings(names, budgets, depths)
    check_text_tower(names, text_tower)
    check_usable(out, resume)
    data = OwnData("rows", read_rows(rows, question, limit), None)
    options = EvalOptions(
        tasks=(rows,),
        model=model,
        batch_size=batch_size,
        limit=limit,
        prompts=prompts,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        text_tower=text_tower,
        question=question,
        max_new_tokens=max_new_tokens,
        out=out,
        resume=resume,
    )
    with redirect_stdout(sys.stderr), quiet(bars=sys.stderr.isatty()):
        result, made = _run(options, data, settings, promise)
    if as_json:
        typer.echo(json.dumps(result))
        return
    from rich.console import Console

    from .tables import print_table

    console = Console(highlight=False)
    print_table(console, made)
    console.print(rich_text(result["verdict"], "bold green" if result["settings"] else "bold yellow"))
    if result["settings"]:
        echo(f"written to {out}: sparsesight.json, and table.md, plot.png, changed.html")
    else:
        echo(f"written to {out}: table.md, plot.png, changed.html; no sparsesight.json")


def _run(options: EvalOptions, data: OwnData, settings: list[Setting], promise: Promise) -> tuple[Any, Any]:
    """Search, and write the folder; its JSON and its table."""
    from ..eval.distributed import Ranks
    from ..eval.own.task import OwnRows
    from ..eval.prepare import prepare_tasks, run_settings, session
    from ..eval.run_dir import Config, RunFolder
    from ..eval.task import task_fingerprint
    from ..eval.tune.alike import find_alike
    from ..eval.tune.plan import make_plan
    from ..eval.tune.run import Asked, tune
    from ..eval.tune.write import known_times, write_result

    plan = make_plan(data.items(), options.batch_size, promise.keep, promise.confidence)
    with progress_bar(len(data.rows), "pictures") as advance:
        alike = find_alike(data.rows, lambda row: advance(1, row.where))
    warnings = [] if alike is None else [alike.sentence()]
    for text in warnings:
        echo(f"warning: {text}", err=True)
    prepared = prepare_tasks(options, Ranks(), {options.tasks[0]: data})
    note = session(prepared.loaded, Ranks())
    task = cast(OwnRows, prepared.tasks[0])
    fixed = {**run_settings(prepared, options), **vars(promise)}
    cells = {"dense": None, **{x.name: x.method.to_dict() for x in settings}}
    with RunFolder(
        options.out,
        Config(fixed, {task.name: task_fingerprint(task)}, cells),
        resume=options.resume,
        session=note,
    ) as folder:
        searched = sum(len(plan.chunks[i].items) for i in range(plan.parts.search))
        about = plan.rows + searched * len(settings) + 2 * (plan.rows - searched)
        with progress_bar(about, "dense") as advance:
            asked = Asked(task, plan, settings, folder, options.batch_size, lambda name, n: advance(n, name))
            a_row = asked.pilot([] if promise.by == "time" else [x.name for x in settings])
            if a_row is not None:
                seconds = plan.rows * a_row[0] + (about - plan.rows) * a_row[1]
                echo(f"{plan.rows} rows, {len(settings)} settings: {duration(seconds)}", err=True)
            times, noise = known_times(folder, task, settings) if promise.by == "time" else (None, "")
            if noise:
                warnings.append(noise)
                echo(f"warning: {noise}", err=True)
            found = tune(asked, settings, plan, promise.keep, promise.confidence, times)
        return write_result(folder, found, plan, settings, promise, fixed, note, warnings)


def duration(seconds: float) -> str:
    """What a search will take, roughly."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes > 120:
        return f"about {minutes / 60:.0f} hours"
    return f"about {minutes} minute{'s' * (minutes > 1)}"


def _share(value: float, option: str) -> float:
    if not 0.5 <= value < 1:
        raise SparseSightError(f"{option} {value:g}: give a share from 0.5 up to, but not, 1, such as 0.98")
    return value
