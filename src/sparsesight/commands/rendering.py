"""Prints the result of ``sparsesight ask`` on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..report import by_layers, where
from ..terminal import rich_text
from ..viz import text
from ..viz.text import legend

if TYPE_CHECKING:
    from ..compare import Comparison, ModelAnswer


def show(result: Comparison, *, picture: str, question: str, model: str) -> None:
    """Print what was saved, the two answers, the report and the tokens that each stage kept.

    Args:
        result: of :func:`sparsesight.compare.compare`; without a look, the reason is printed.
        picture, question, model: the input, for display.
    """
    console = Console(highlight=False)
    console.print(Text(result.headline, "bold green" if result.agree else "bold yellow"))
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    retain = result.report.method["retain"]
    method = f"{result.report.method['method']}, retain {retain}"
    if result.stages:
        method += f", {where([stage.layer for stage in result.stages])}"
    for name, value in (("picture", picture), ("model", model), ("method", method), ("question", question)):
        facts.add_row(name, rich_text(value))
    facts.add_row()
    facts.add_row("dense", _answer(result.dense))
    verdict = ("the same answer", "green") if result.agree else ("a different answer", "yellow")
    facts.add_row("sparse", Text.assemble(_answer(result.sparse), "  (", verdict, ")"))
    console.print(facts)
    console.print(_report(result))
    sample = result.report.samples[0]
    console.print(rich_text(f"visual tokens entering: {by_layers(sample.visual_per_layer)}"))
    if result.look is None:
        console.print()
        console.print(rich_text(result.why_not), soft_wrap=True)
        return
    if not result.stages:
        return
    merged = result.merged[-1]
    if merged and not any(result.kept):
        console.print()
        console.print(
            Text(f"no token was kept as it is: {merged} merged ones stand for the {sample.visual_tokens}")
        )
        return
    console.print()
    ascii_only = not console.encoding.lower().startswith("utf")
    added = "; 66+8: 66 kept, 8 merged" if any(result.merged) else ""
    chosen = "".join(
        f"\n{stage.where}: {stage.meaning.kept}" for stage in result.stages if stage.meaning.kept
    )
    console.print(Text(f"kept after each stage{added}{chosen}\n{legend(ascii_only)}", "dim"))
    lines = text(result.look, width=console.width, ascii_only=ascii_only)
    console.print(rich_text(lines), soft_wrap=True)


def _report(result: Comparison) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column()
    table.add_column("dense", justify="right")
    table.add_column("sparse", justify="right")
    for name, before, after in result.report.rows():
        table.add_row(*map(rich_text, (name, before, after)))
    return table


def _answer(answer: ModelAnswer) -> Text:
    return rich_text(answer.answer or "(nothing)", "bold")
