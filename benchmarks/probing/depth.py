"""Part "depth": what pruning once costs, by the depth it happens at, the tokens that stay and what chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from sparsesight.scenes.scenes import SINGLE_OBJECT

from .answering import Examiner, some_examples
from .intervals import ALL, SINGLE, by_group, difference
from .presenting import COLORS, MARKERS, STYLE, shown, table
from .scorers import SCORERS, known_scores, method_maker

SPLIT = "test"
BUDGETS = (288, 192, 128, 64, 32)
REPORTED = (ALL, SINGLE)
CLAIM_BUDGETS = (64, 32)
CLAIM_SCORERS = ("random", "saliency", "relevant")
CLAIM = 0.10  # the loss that is claimed


def run(examiner: Examiner, arguments: Any) -> dict[str, Any]:
    """The grid on the first `depth_scenes` scenes, and the claim on as many as the other parts use.

    A grid of chosen scorers comes without the claim.
    """
    depths, budgets = arguments.depths or list(examiner.depths), arguments.depth_budgets or BUDGETS
    scorers = arguments.depth_scorers or SCORERS
    found = {"grid": run_grid(examiner, arguments.depth_scenes, depths, budgets, scorers)}
    if arguments.depth_scorers is None:
        found["claim"] = run_claim(examiner, arguments.scenes)
    return found


def run_grid(
    examiner: Examiner, scenes: int, depths: Sequence[int], budgets: Sequence[int], scorers: Sequence[str]
) -> dict[str, Any]:
    """Estimates by scorer, depth and budget; the keys are text, as JSON has them."""
    asked = some_examples(SPLIT, scenes)
    sheet, known = examiner.own_pictures(asked), known_scores(asked)
    dense = by_group(examiner.marks(f"depth/dense/{SPLIT}", sheet), asked, REPORTED)
    found: dict[str, Any] = {name: {str(depth): {} for depth in depths} for name in scorers}
    cells = list(product(depths, budgets, scorers))
    for depth, budget, scorer in tqdm(cells, desc="depth", unit="cell"):
        maker = method_maker(scorer, depth, budget, known)
        marks = examiner.marks(f"depth/{scorer}/{depth}/{budget}", sheet, maker)
        found[scorer][str(depth)][str(budget)] = by_group(marks, asked, REPORTED)
    return {"dense": dense, "scorers": found, "depths": list(depths), "budgets": list(budgets)}


def run_claim(examiner: Examiner, scenes: int | None) -> dict[str, Any]:
    """The most salient patches against those of the asked object, after the first layer, same questions."""
    asked = [e for e in some_examples(SPLIT, scenes) if e.question.kind in SINGLE_OBJECT]
    sheet, known = examiner.own_pictures(asked), known_scores(asked)
    scene = np.array([example.scene.seed for example in asked])
    depth, found = examiner.depths[0], {}
    for budget in tqdm(CLAIM_BUDGETS, desc="claim", unit="budget"):
        marks = {
            scorer: examiner.marks(
                f"claim/{scorer}/{budget}", sheet, method_maker(scorer, depth, budget, known)
            )
            for scorer in CLAIM_SCORERS
        }
        loss = difference(marks["relevant"], marks["saliency"], scene)
        found[str(budget)] = {
            **{scorer: by_group(marks[scorer], asked, [SINGLE])[SINGLE] for scorer in CLAIM_SCORERS},
            "loss": loss,
            "holds": loss["difference"] >= CLAIM,
            "interval_holds": loss["low"] >= CLAIM,
        }
    return {"depth": depth, "budgets": found}


def half_width(grid: dict[str, Any], group: str) -> float:
    """The median half width of the grid's intervals."""
    cells = [cell for depth in grid["scorers"].values() for row in depth.values() for cell in row.values()]
    return float(median((cell[group]["high"] - cell[group]["low"]) / 2 for cell in cells))


def claimed(claim: dict[str, Any]) -> str:
    """The question that the claim answers, and a row for each budget."""
    rows = []
    for budget, found in claim["budgets"].items():
        verdict = "yes, the whole interval" if found["interval_holds"] else "yes" if found["holds"] else "no"
        estimates = [shown(found[scorer]) for scorer in CLAIM_SCORERS]
        rows.append(
            [budget, f"{found['loss']['n']:.0f}", *estimates, shown(found["loss"], "difference"), verdict]
        )
    head = ["kept", "n", *CLAIM_SCORERS, "relevant less saliency", f"at least {100 * CLAIM:.0f} points"]
    about = (
        f"### Is contrast enough?\n\nSingle-object questions, pruned after {claim['depth']} layer. The difference is "
        "paired, its interval resamples scenes.\n"
    )
    return about + "\n" + table(head, rows)


def markdown(numbers: dict[str, Any]) -> str:
    """The claim, and a table for each budget and group."""
    grid, scorers = numbers["grid"], list(numbers["grid"]["scorers"])
    parts = [
        f"Split {SPLIT}; one stage, after the first `depth` decoder layers, keeps exactly the given number of visual "
        "tokens. *random*: a draw for each question; *last token*, *all text*, *raters*: the attention of that layer "
        "from the last token, all text, the published raters; *saliency*: colour contrast, blind to the question; "
        "*relevant*: the patches of the objects that the answer rests on, in random order, then random others.\n"
    ]
    if "claim" in numbers:
        parts.append(claimed(numbers["claim"]))
    for group in REPORTED:
        dense, width = grid["dense"][group], half_width(grid, group)
        parts.append(
            f"### By depth, {group} questions\n\n{dense['n']:.0f} questions about {dense['scenes']:.0f} scenes; "
            f"dense {shown(dense)}. Half of the 95 % intervals are narrower than ±{width:.3f}; each stands in the "
            "JSON file.\n"
        )
        for budget in map(str, grid["budgets"]):
            rows = [
                [
                    str(d),
                    *(f"{grid['scorers'][name][str(d)][budget][group]['share']:.3f}" for name in scorers),
                ]
                for d in grid["depths"]
            ]
            parts.append(f"{budget} kept:\n\n" + table(["depth", *scorers], rows))
    return "\n".join(parts)


def plot(numbers: dict[str, Any], path: Path) -> None:
    """A panel for each budget and group, a line for each scorer."""
    grid = numbers["grid"]
    depths, budgets = grid["depths"], grid["budgets"]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(REPORTED),
            len(budgets),
            figsize=(2 + 3 * len(budgets), 8),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for (row, group), (column, budget) in product(enumerate(REPORTED), enumerate(budgets)):
            axes = panels[row, column]
            axes.axhline(grid["dense"][group]["share"], color="#777777", linestyle="--", label="dense")
            for index, name in enumerate(grid["scorers"]):
                found = [grid["scorers"][name][str(depth)][str(budget)][group]["share"] for depth in depths]
                axes.plot(depths, found, color=COLORS[index], marker=MARKERS[index], markersize=5, label=name)
            axes.set_title(f"{group}, {budget} kept", fontsize=11)
            axes.set_ylim(0, 1.02)
            axes.set_xticks(depths)
            if row == len(REPORTED) - 1:
                axes.set_xlabel("layers before pruning")
            if column == 0:
                axes.set_ylabel("exactly right answers")
        figure.suptitle(
            f"Pruning once: exact answers by depth. 95 % intervals: about ±{half_width(grid, ALL):.2f} "
            f"(all), ±{half_width(grid, SINGLE):.2f} (single-object)"
        )
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(path)
        plt.close(figure)
