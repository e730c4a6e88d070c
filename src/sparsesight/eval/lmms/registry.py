"""Maps benchmark names to the task objects that ``simple_evaluate`` runs, with data from the Hub or local files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import SparseSightError
from ...suggestions import did_you_mean
from .benchmarks import BENCHMARKS, Benchmark
from .local_data import local_settings

OUR_TASKS = Path(__file__).parent / "tasks"
OURS = {path.stem for path in OUR_TASKS.glob("*/*.yaml")}


@dataclass(frozen=True)
class Resolved:
    """What a run needs.

    Attributes:
        benchmarks: in the order asked for.
        tasks: lmms-eval's task objects, ready for ``simple_evaluate(model, tasks=..., task_manager=manager)``. They
            hold the data and may be run again and again.
        manager: the ``TaskManager``.
    """

    benchmarks: tuple[Benchmark, ...]
    tasks: list[Any]
    manager: Any


def resolve(names: Sequence[str], data: Path | None = None) -> Resolved:
    """Load benchmarks.

    Args:
        names: of :data:`~.benchmarks.BENCHMARKS`, or of any other task that lmms-eval has.
        data: a folder of local copies, one folder per data set or task (:mod:`~.local_data`); None: the Hub.

    Raises:
        SparseSightError: an unknown name, one given twice, a judge without an API key, data that are not there.
    """
    benchmarks = tuple(find(name) for name in names)
    if not benchmarks:
        raise SparseSightError("no benchmark was named: choose some, such as mme,textvqa,gqa")
    twice = sorted({b.name for b in benchmarks if benchmarks.count(b) > 1})
    if twice:
        raise SparseSightError(f"benchmarks {twice} are named twice")
    for benchmark in benchmarks:
        check_judge(benchmark)
    if data is not None and not data.is_dir():
        raise SparseSightError(
            f"data={str(data)!r} is not a folder: give the one that contains the data sets' folders"
        )
    manager = task_manager()
    tasks: list[Any] = []
    for benchmark in benchmarks:
        for task in benchmark.tasks:
            tasks += _load(manager, benchmark, task, data)
    return Resolved(benchmarks, tasks, manager)


@cache
def task_manager() -> Any:
    """lmms-eval's index of all its tasks and ours; reading it takes seconds."""
    from lmms_eval.tasks import TaskManager

    return TaskManager("WARNING", include_path=str(OUR_TASKS), model_name="sparsesight")


def find(name: str) -> Benchmark:
    """The benchmark of that name; a row of its own for a task of lmms-eval that is in no table."""
    return BENCHMARKS.get(name) or Benchmark(name, name, (name,), scale=1.0)


def check_judge(benchmark: Benchmark) -> None:
    """Refuse a judged benchmark without a key: lmms-eval would score every answer 0.

    Raises:
        SparseSightError: naming the variable.
    """
    variable = "AZURE_API_KEY" if os.environ.get("API_TYPE") == "azure" else "OPENAI_API_KEY"
    if benchmark.judged and not os.environ.get(variable):
        raise SparseSightError(
            f"benchmark {benchmark.name!r} is scored by a language model: set {variable} (and MODEL_VERSION to choose "
            "the judge), or leave it out"
        )


def harness_arguments(folder: Path) -> argparse.Namespace:
    """``simple_evaluate(cli_args=...)``: without it scorers write into the current folder, and decode every picture
    once more."""
    return argparse.Namespace(output_path=str(folder), process_with_media=False)


def check_task(name: str, others: Iterable[str] = ()) -> None:
    """Refuse a name that is neither a benchmark nor one of lmms-eval's tasks; ``others`` may be meant as well.

    Raises:
        SparseSightError: naming what there is, and the nearest name.
    """
    if name not in BENCHMARKS:
        _check_subtask(name, others)


def _check_subtask(name: str, others: Iterable[str] = ()) -> None:
    manager = task_manager()
    if name not in manager.all_subtasks:
        kind = "a group of tasks" if name in manager.all_tasks else "unknown to lmms-eval"
        near = did_you_mean(name, [*manager.all_subtasks, *BENCHMARKS, *others])
        raise SparseSightError(
            f"benchmark {name!r} is {kind}: name single tasks, or one of {sorted(BENCHMARKS)}{near}"
        )


def _load(manager: Any, benchmark: Benchmark, task: str, data: Path | None) -> list[Any]:
    _check_subtask(task)
    from huggingface_hub import constants
    from lmms_eval.utils import load_yaml_config
    from tenacity import RetryError

    os.environ.setdefault("HF_HOME", constants.HF_HOME)  # scorers of clips fail to import without it
    base = load_yaml_config(manager.task_index[task]["yaml_path"], mode="full")
    settings = {"task": task, **benchmark.overrides}
    if benchmark.metrics is not None:  # leaves out files for submission servers
        settings["metric_list"] = [m for m in base["metric_list"] if m["metric"] in benchmark.metrics]
    if data is not None:
        settings |= local_settings(task, base, data)
    elif task in OURS and "dataset_path" not in base:
        raise SparseSightError(
            f"benchmark {benchmark.name!r} is not on the Hub: give the folder of its data (docs/benchmarks.md)"
        )
    # lmms-eval's own way for configurations, load_config, makes tasks that a chat model cannot run.
    try:
        return list(manager.load_task_or_group([settings], task_type="chat").values())
    except RetryError as error:  # it tries five times, and then tells how often it tried
        cause = error.last_attempt.exception()
        why = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise SparseSightError(f"the data of benchmark {benchmark.name!r} cannot be loaded: {why}") from cause
