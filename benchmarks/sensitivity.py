"""What becomes of `halves` where one of its four constants is another: one plot.

    python benchmarks/sensitivity.py --limit 225 --retain 64 --out runs/sensitivity

Runs `sparsesight eval` on the scenes, all settings at equal cost, and draws each setting's difference from the dense
model. A run that was stopped goes on when it is started again with the same --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

RULE = "halves"


class Constant(NamedTuple):
    """One of the rule's constants.

    Attributes:
        title: of its panel.
        settings: method texts by what is written below them, in order; one of them is the rule itself.
    """

    title: str
    settings: Mapping[str, str]

    @classmethod
    def of(cls, title: str, option: str, default: float, values: tuple[float, ...]) -> Constant:
        texts = {f"{x:g}": RULE if x == default else f"{RULE}({option}={x})" for x in values}
        return cls(title, texts)


CONSTANTS = (
    Constant.of("share that the question helps to select", "asked", 0.5, (0.0, 0.25, 0.5, 0.75, 1.0)),
    Constant.of("share that stays after the second stage", "share", 0.25, (0.125, 0.25, 0.5, 1.0)),
    Constant(
        "second stage after layer (of 8)",
        {str(x): RULE if x == 5 else f"{RULE}(layers=(-1,{x}))" for x in (2, 3, 4, 5, 6)},
    ),
    Constant.of("bandwidth, in mean squared distances", "bandwidth", 1.0, (0.25, 0.5, 1.0, 2.0, 4.0)),
)


def methods() -> list[str]:
    """Every setting once."""
    return list(dict.fromkeys(text for constant in CONSTANTS for text in constant.settings.values()))


def draw(summary: dict[str, Any], task: str, retain: int) -> Figure:
    """Differences from the dense model in percentage points, with 95 % intervals; ``summary`` is `eval`'s."""
    found = summary["tasks"][task]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for place, constant in enumerate(CONSTANTS):
        axes = figure.add_subplot(1, len(CONSTANTS), place + 1, sharey=figure.axes[0] if place else None)
        for x, text in enumerate(constant.settings.values()):
            shown = found["cells"][f"{text}@{retain}"]["against_dense"]["difference"]
            value, low, high = (shown[name] for name in ("value", "low", "high"))
            color = "black" if text == RULE else "tab:blue"
            axes.errorbar(x, value, [[value - low], [high - value]], fmt="o", color=color, capsize=3)
        axes.axhline(0, color="0.7", zorder=0)
        axes.set_xticks(range(len(constant.settings)), list(constant.settings))
        axes.set_title(constant.title, fontsize="small")
        if place:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("difference from dense, points")
    figure.suptitle(
        f"{RULE} at {retain}, {found['samples']} questions in {found['units']} scenes", fontsize="medium"
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="scenes")
    parser.add_argument("--limit", type=int, default=225)
    parser.add_argument("--retain", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=27)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    options = {
        "--tasks": arguments.task,
        "--limit": arguments.limit,
        "--retain": arguments.retain,
        "--batch-size": arguments.batch_size,
        "--methods": ",".join(methods()),
        "--out": arguments.out,
    }
    command = [
        sys.executable,
        "-m",
        "sparsesight",
        "eval",
        *(str(x) for pair in options.items() for x in pair),
    ]
    subprocess.run([*command, *(["--resume"] if arguments.out.exists() else [])], check=True)
    summary = json.loads((arguments.out / "summary.json").read_text(encoding="utf-8"))
    draw(summary, arguments.task, arguments.retain).savefig(arguments.out / "sensitivity.png", dpi=130)


if __name__ == "__main__":
    main()
