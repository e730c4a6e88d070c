"""Runs every combination of method, budget and task once, batch by batch, and scores it when it is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.budget import Retain
from ..equal_cost import PromptSizes, fit
from ..errors import SparseSightError
from ..macs import DecoderShape
from ..methods import Method, has_budget, is_published, make_method
from .cell_file import CellFile
from .distributed import Ranks
from .records import Answer, Item, Sample
from .run_dir import RunFolder
from .task import Task, check_items

DENSE = "dense"
LOOKED_AT = 16  # items of a task, for budgets of equal cost
POLL = 1.0  # seconds between looks at what other processes have answered

Fit = Callable[[Method, Retain], Method]


@dataclass(frozen=True)
class RunSpec:
    """A column of a sweep: a method at a budget.

    Attributes:
        name: of the method, as the user wrote it.
        retain: the budget as asked for; None for the dense model, and for a method that takes none.
        method: what meets it; None is the untouched model.
    """

    name: str
    retain: Retain | None
    method: Method | None

    @property
    def label(self) -> str:
        """``fastv@64``; unique in a sweep."""
        return self.name if self.retain is None else f"{self.name}@{budget_text(self.retain)}"


def typical(prompts: Sequence[PromptSizes]) -> PromptSizes:
    """The median by length, among prompts with visual tokens if there are any."""
    some = [prompt for prompt in prompts if prompt.visual] or list(prompts)
    return sorted(some, key=lambda x: (x.visual, x.text + x.before, x.text))[len(some) // 2]


def equal_cost(shape: DecoderShape, prompt: PromptSizes, allowed: tuple[int, ...]) -> Fit:
    """Budgets at which every method's prefill costs the same; see :func:`sparsesight.equal_cost.fit`."""

    def fitted(method: Method, retain: Retain) -> Method:
        if isinstance(retain, tuple):
            raise SparseSightError(
                f"--retain {budget_text(retain)}: counts per stage cannot be matched to another method; give an "
                "average, or pass --same-retain"
            )
        return fit(method, retain, shape, prompt, allowed).method

    return fitted


def same_retain(visual: int, num_layers: int) -> Fit:
    """The methods with the ``retain`` that was asked for, whatever that costs."""
    return lambda method, retain: method.with_budget(retain, visual, num_layers)


def make_cells(
    names: Sequence[str], budgets: Sequence[Retain], parse: Callable[[str], Method], fitted: Fit
) -> list[RunSpec]:
    """The dense model once, then every method that takes no budget, then the others at every budget.

    No budget is for a method that decides its counts from data, and for a published setting that has one or is the only
    one (:func:`sparsesight.methods.has_budget`). Other published settings are taken at the budget itself, whatever they
    cost.

    Args:
        names: of methods; ``dense`` may be among them and is always there.
        budgets: what to spend, each the same for all methods.
        parse: a method from what the user wrote.
        fitted: a method that costs what a budget says.

    Raises:
        SparseSightError: what ``parse`` and ``fitted`` refuse, a method or budget twice, none at all.
    """
    wanted = [name for name in names if name != DENSE]
    for title, values in (("--methods", wanted), ("--retain", list(budgets))):
        double = next((x for i, x in enumerate(values) if x in values[:i]), None)
        if double is not None:
            raise SparseSightError(f"{title}: {double!r} is named twice")
    if wanted and not budgets:
        raise SparseSightError("--retain: give at least one budget")
    parsed = {name: parse(name) for name in wanted}
    varied = [name for name in wanted if has_budget(name, parsed[name])]
    alone = [RunSpec(name, None, parsed[name]) for name in wanted if name not in varied]

    def at(name: str, retain: Retain) -> Method:
        return make_method(name, retain=retain) if is_published(name) else fitted(parsed[name], retain)

    return [
        RunSpec(DENSE, None, None),
        *alone,
        *(RunSpec(name, retain, at(name, retain)) for retain in budgets for name in varied),
    ]


def cell_dict(cell: RunSpec) -> dict[str, Any] | None:
    """The form in which a cell is compared when a sweep is resumed."""
    return None if cell.method is None else cell.method.to_dict()


def batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Items in their order, ``size`` at a time. An answer may depend on its batch in the last bits, so a batch is the
    same in every process and in every session, and is answered whole or not at all."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def sweep(
    tasks: Sequence[Task],
    cells: Sequence[RunSpec],
    folder: RunFolder,
    *,
    batch_size: int,
    ranks: Ranks | None = None,
    progress: Callable[[str, str, int], None] = lambda task, label, questions: None,
) -> None:
    """Answer and score what the folder does not hold yet.

    Each process takes every ``count``-th unanswered batch; the first process scores. It returns when all
    samples are there, the others when their share is answered.

    Args:
        tasks: the tasks.
        cells: from :func:`make_cells`.
        folder: opened with ``cells`` and ``tasks``.
        batch_size: items in a batch.
        ranks: this process among others.
        progress: called with task, label and a number of questions that were answered, or were found to be.

    Raises:
        SparseSightError: a task without questions, a method that the model refuses.
    """
    ranks = ranks or Ranks()
    for task in tasks:
        check_items(task)
    for task in tasks:
        for cell in cells:
            with task.answering(cell.method):
                pass  # what the model refuses, it refuses before hours have gone by
    open_ends: list[tuple[Task, RunSpec]] = []
    for task in tasks:
        for cell in cells:
            file = folder.cell(task.name, cell.label)
            if not file.done:
                _answer(task, cell, file, batch_size, ranks, progress)
                if ranks.rank == 0 and not _finish(task, file, batch_size):
                    open_ends.append((task, cell))
            else:
                if ranks.rank == 0:
                    file.tidy()
                progress(task.name, cell.label, len(task.items))
    for task, cell in open_ends:
        while not _finish(task, folder.cell(task.name, cell.label), batch_size):
            time.sleep(POLL)


def _answer(
    task: Task,
    cell: RunSpec,
    file: CellFile,
    batch_size: int,
    ranks: Ranks,
    progress: Callable[[str, str, int], None],
) -> None:
    """Answer this process's share of the batches."""
    all_batches = batches(task.items, batch_size)
    known = file.answered([len(batch) for batch in all_batches])
    if known is None:
        progress(task.name, cell.label, len(task.items))
        return
    mine = [i for i in range(len(all_batches)) if i not in known and i % ranks.count == ranks.rank]
    found = sum(len(all_batches[i]) for i in known if i % ranks.count == ranks.rank)
    progress(task.name, cell.label, found)
    if not mine:
        return
    with task.answering(cell.method) as answer:
        for index in mine:
            answers = answer(all_batches[index])
            if len(answers) != len(all_batches[index]):
                raise RuntimeError(
                    f"{task.name}: {len(all_batches[index])} questions, {len(answers)} answers"
                )
            file.append(index, answers)
            progress(task.name, cell.label, len(answers))


def _finish(task: Task, file: CellFile, batch_size: int) -> bool:
    """Score a cell if all its batches are answered."""
    all_batches = batches(task.items, batch_size)
    known = file.answered([len(batch) for batch in all_batches])
    if known is None:
        return True
    if len(known) < len(all_batches):
        return False
    answers: list[Answer] = [answer for index in range(len(all_batches)) for answer in known[index]]
    items = task.items
    scores: Mapping[str, Mapping[str, float]] = task.score(
        {item.id: answer.text for item, answer in zip(items, answers, strict=True)}
    )
    samples = [
        Sample.of(item, x, {**scores[item.id], **x.figures}) for item, x in zip(items, answers, strict=True)
    ]
    times = [x.prefill_ms for x in answers if x.prefill_ms is not None]
    file.finish(samples, times if len(times) == len(answers) else ())
    return True


def budget_text(retain: Retain) -> str:
    """A budget as one would write it for ``--retain``."""
    return ",".join(map(str, retain)) if isinstance(retain, tuple) else str(retain)
