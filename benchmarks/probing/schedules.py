"""Part "schedules": the library's own methods, at the budgets people ask for, pruning where they prune by default."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from tqdm import tqdm

from sparsesight.methods import METHODS, make_method

from .answering import Examiner, some_examples
from .intervals import ALL, SINGLE, by_group
from .presenting import COLORS, MARKERS, STYLE, shown, table

SPLIT = "test"
BUDGETS = (192, 128, 64)
REPORTED = (ALL, SINGLE)


def run(examiner: Examiner, arguments: Any) -> dict[str, Any]:
    """Estimates by method and budget, and of the dense model, on the first `depth_scenes` scenes."""
    asked = some_examples(SPLIT, arguments.depth_scenes)
    sheet, found = examiner.own_pictures(asked), {name: dict[str, Any]() for name in METHODS}
    for name, retain in tqdm([*product(METHODS, BUDGETS)], desc="schedules", unit="cell"):
        method = make_method(name, retain=retain)
        marks = examiner.marks(f"schedules/{name}/{retain}", sheet, lambda rows, method=method: method)
        found[name][str(retain)] = by_group(marks, asked, REPORTED)
    dense = by_group(examiner.marks(f"schedules/dense/{SPLIT}", sheet), asked, REPORTED)
    return {"dense": dense, "methods": found}


def markdown(numbers: dict[str, Any]) -> str:
    """A row for each method and group, a column for each budget."""
    about = (
        f"Split {SPLIT}; `retain` is the average number of visual tokens per layer; every method prunes at the "
        "layers and to the counts that it does by default.\n\n"
    )
    rows = [["dense", group, *[shown(numbers["dense"][group])] * len(BUDGETS)] for group in REPORTED]
    rows += [
        [name, group, *(shown(budgets[str(retain)][group]) for retain in BUDGETS)]
        for name, budgets in numbers["methods"].items()
        for group in REPORTED
    ]
    size = numbers["dense"][ALL]
    return (
        about
        + f"{size['n']:.0f} questions about {size['scenes']:.0f} scenes.\n\n"
        + table(["method", "questions", *(f"retain {retain}" for retain in BUDGETS)], rows)
    )


def plot(numbers: dict[str, Any], path: Path) -> None:
    """A panel for each group, a line with intervals for each method."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(REPORTED), figsize=(11, 4.5), sharey=True, layout="constrained")
        for axes, group in zip(panels, REPORTED, strict=True):
            axes.axhline(numbers["dense"][group]["share"], color="#777777", linestyle="--", label="dense")
            for index, (name, budgets) in enumerate(numbers["methods"].items()):
                found = [budgets[str(retain)][group] for retain in BUDGETS]
                share = [one["share"] for one in found]
                below = [max(one["share"] - one["low"], 0) for one in found]
                above = [max(one["high"] - one["share"], 0) for one in found]
                axes.errorbar(
                    [retain + 2 * index for retain in BUDGETS],
                    share,
                    yerr=[below, above],
                    color=COLORS[index + 1],
                    marker=MARKERS[index],
                    label=name,
                )
            axes.set(title=f"{group} questions", xlabel="retain", xticks=BUDGETS, ylim=(0, 1.02))
        panels[0].set_ylabel("exactly right answers")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(path)
        plt.close(figure)
