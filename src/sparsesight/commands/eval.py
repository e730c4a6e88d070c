"""``sparsesight eval``: the accuracy of methods at equal cost, on published benchmarks or on scenes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..method_names import DEFAULT
from ..terminal import echo, rich_text
from .options import (
    BUDGETS,
    AsJson,
    Device,
    Dtype,
    Model,
    SameRetain,
    Settings,
    TextTower,
    TrustRemoteCode,
    choose_budgets,
    choose_methods,
    complete_method,
    settings_method,
    split_list,
)
from .progress import progress_bar

if TYPE_CHECKING:
    from ..eval.distributed import Ranks
    from ..eval.options import EvalOptions
    from ..eval.own.data import OwnData
    from ..methods import Method

TASKS_HELP = (
    "Benchmarks, such as mme,textvqa,gqa (docs/benchmarks.md), any other task of lmms-eval, rendered scenes: scenes, "
    "scenes-mixed (docs/scenes/mixed.md), or own data: a .jsonl or .csv file, a folder of pictures or of a dataset, "
    "written with a slash (photos/)."
)


def evaluate(
    tasks: str = typer.Option(..., help=TASKS_HELP),
    model: Model = None,
    methods: str | None = typer.Option(
        None,
        autocompletion=complete_method,
        help="Methods, with commas, such as fastv,random; options go in brackets, fastv(layers=(2,)), and > chains "
        "methods. The dense model always runs.",
        show_default=DEFAULT,
    ),
    retain: str | None = typer.Option(
        None,
        help="Budgets, which are costs: at 64 (or at a ratio) each method costs what sparsevlm+ does at retain 64. "
        "With --same-retain: each method's own average, or counts per stage in brackets.",
        show_default=BUDGETS,
    ),
    same_retain: SameRetain = False,
    settings: Settings = None,
    limit: int | None = typer.Option(
        None, min=1, help="Maximum number of questions per task.", show_default="all"
    ),
    batch_size: int = typer.Option(8, min=1, help="Questions per forward."),
    out: Path = typer.Option(Path("eval-run"), help="The run folder."),
    resume: bool = typer.Option(
        False, "--resume", help="Continue the run in the folder; answered questions are skipped."
    ),
    data: Path | None = typer.Option(
        None, help="Folder of local copies of the data (docs/benchmarks.md).", show_default="the Hub"
    ),
    prompts: str = typer.Option(
        "auto",
        help="Prompts: own (the model's chat template), llava-1.5 (LLaVA-1.5's evaluation prompts), or auto.",
    ),
    difficult: Path | None = typer.Option(
        None,
        help="A run of TASK@64, scenes at the detail of 64 patches: report apart what the model got wrong there.",
        show_default="no such group",
    ),
    latency: bool = typer.Option(False, "--latency", help="Also measure prefill times."),
    trim_early_layers: bool = typer.Option(
        False,
        "--trim-early-layers",
        help="After the prefill, also drop the first stage's dropped tokens from the caches of the layers before it.",
    ),
    text_tower: TextTower = None,
    question: str | None = typer.Option(
        None, help="Own data: asked about every picture of a folder.", show_default=False
    ),
    score: str | None = typer.Option(
        None,
        help="Own data with answers: exact, contains, regex (a pattern as answer), or a metric of lmms-eval "
        "that judges one answer: anls, exact_match, relaxed_accuracy, bleu, chrf, ter.",
        show_default="exact; without answers, agreement with the dense model",
    ),
    max_new_tokens: int = typer.Option(32, min=1, help="Own data: maximum length of an answer."),
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Run methods at several budgets on benchmarks, and compare them with the dense model and with each other.

    Every method gets the budget at which its prefill costs as much as that of
    SparseVLM+ at the given --retain. The run folder holds all answers, a summary, a
    table and a plot. On several GPUs: accelerate launch -m sparsesight eval ...

    A method with :published after its name runs as published: --retain then selects
    its own schedule at that budget, and the table gives its cost. A method that derives
    its counts from the data, sparsevlm(adaptive=True), runs once, without a budget.

    Environment: RETAIN_TOKN=192 is a default for --retain, and USE_VERSION=1_0
    (sparsevlm:published) or 2_0 (sparsevlm+:published) one for --methods.
    """
    names = tuple(split_list(tasks, "--tasks"))
    chosen = None if settings is None else settings_method(settings)
    budgets = choose_budgets(retain)
    wanted = ["dense"] if chosen is not None and methods is None else choose_methods(methods)
    from ..eval.distributed import Ranks
    from ..eval.options import EvalOptions
    from ..eval.own.data import check_pictures, read_own
    from ..eval.run_dir import check_usable
    from ..hf.loading import check_text_tower

    options = EvalOptions(
        tasks=names,
        model=model,
        batch_size=batch_size,
        limit=limit,
        data=data,
        prompts=prompts,
        difficult=difficult,
        latency=latency,
        trim_early_layers=trim_early_layers,
        same_retain=same_retain,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        text_tower=text_tower,
        question=question,
        score=score,
        max_new_tokens=max_new_tokens,
        out=out,
        resume=resume,
    )
    ranks = Ranks.of()
    check_text_tower([*wanted, *([] if chosen is None else [str(chosen)])], text_tower)
    if ranks.rank == 0:
        check_usable(out, resume)
    from ..eval.prepare import check_tasks

    check_tasks(names, model, difficult)
    own = read_own(names, question, score, limit)
    if ranks.rank == 0:
        rows = sum(len(data.rows) for data in own.values())
        with progress_bar(rows, "pictures", shown=bool(own)) as advance:
            check_pictures(own, lambda row: advance(1, row.where))
    # Code that prints, such as a checkpoint's own or a scorer, must not mix with the report.
    with redirect_stdout(sys.stderr):
        from ..hf.loading import quiet

        with quiet(bars=ranks.rank == 0 and sys.stderr.isatty()):
            summary = _run(options, own, wanted, budgets, chosen, ranks)
    if summary is None:
        return
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _show(summary)
        echo(f"written to {out}; table.md also has groups of questions and pairs of methods")


def _show(summary: dict[str, Any]) -> None:
    """One sentence, the tables, and notes below them."""
    from rich.console import Console

    from ..eval.brief import brief
    from .tables import print_table

    console = Console(highlight=False)
    shown = brief(summary)
    console.print(rich_text(shown.headline, "bold"))
    for table in shown.tables:
        print_table(console, table)
    for note in shown.notes:
        console.print(rich_text(note, "dim"))


def _run(
    options: EvalOptions,
    own: Mapping[str, OwnData],
    methods: list[str],
    budgets: Any,
    chosen: Method | None,
    ranks: Ranks,
) -> dict[str, Any] | None:
    """Run everything into the folder, beside ``methods`` the ``chosen`` one at its own cost; the first process returns
    the summary."""
    from importlib.util import find_spec

    from ..eval.prepare import prepare_tasks, run_settings, session
    from ..eval.report import write_report
    from ..eval.run_dir import Config, RunFolder
    from ..eval.sweep import (
        LOOKED_AT,
        RunSpec,
        cell_dict,
        equal_cost,
        make_cells,
        same_retain,
        sweep,
        typical,
    )
    from ..eval.task import check_items, task_fingerprint
    from ..hf.decoder_shape import decoder_shape
    from ..hf.model_parts import inspect_model
    from ..methods import is_published, parse
    from ..provenance import short

    prepared = prepare_tasks(options, ranks, own)
    tasks, fixed, note = prepared.tasks, run_settings(prepared, options), session(prepared.loaded, ranks)
    for task in tasks:
        check_items(task)
    prompt = typical([size for task in tasks for size in task.sizes(task.items[:LOOKED_AT])])
    parts = inspect_model(prepared.loaded.model)
    if options.same_retain:
        fitted = same_retain(prompt.visual, len(parts.layers))
    else:
        fitted = equal_cost(decoder_shape(parts), prompt, parts.prunable)
    cells = make_cells(methods, budgets, parse, fitted)
    if chosen is not None:
        cells.append(RunSpec(str(chosen), None, chosen))
    unsolved = []
    for cell in cells:
        if cell.method is not None and (cell.retain is None or is_published(cell.name)):
            # Refuses layers that this model lacks, before the folder is created.
            cell.method.stage_layers(len(parts.layers), parts.prunable)
            unsolved.append(f"`{cell.label}`")
    config = Config(
        fixed,
        {task.name: task_fingerprint(task) for task in tasks},
        {cell.label: cell_dict(cell) for cell in cells},
    )
    with RunFolder(options.out, config, resume=options.resume, rank=ranks.rank, session=note) as folder:
        questions = sum(len(task.items) for task in tasks) * len(cells)
        with progress_bar(questions // ranks.count, shown=ranks.rank == 0) as advance:

            def progress(task: str, label: str, count: int) -> None:
                advance(count, f"{task} {label}")

            sweep(tasks, cells, folder, batch_size=options.batch_size, ranks=ranks, progress=progress)
        if ranks.rank:
            return None
        about = {
            "model": fixed["model"],
            "prompts": fixed["prompts"],
            "budgets solved for a prompt of": f"{prompt.visual} visual and {prompt.text + prompt.before} text tokens",
            **({"at their own cost, no budget solved": ", ".join(unsolved)} if unsolved else {}),
            "machine": ", ".join(
                (
                    note["device"],
                    *((f"CUDA {note['cuda']}",) if "cuda" in note else ()),
                    fixed["dtype"],
                )
            ),
            "versions": ", ".join(f"{name} {number}" for name, number in fixed["versions"].items()),
            **({"commit": short(note["commit"])} if "commit" in note else {}),
            "weights": note["weights"],
            "date": note["started"][:10],
            "command": f"`{note['command']}`",
        }
        plots = find_spec("matplotlib") is not None
        if not plots:
            print("note: no plot.png without matplotlib: pip install 'sparsesight[plots]'", file=sys.stderr)
        return write_report(folder, tasks, cells, about, solved=not options.same_retain, plots=plots)
