"""The learning curves of the bundled model.

    python benchmarks/plot_training.py runs/bundled/log.jsonl benchmarks/results/bundled/training.png

Left: what the tower names rightly on patches that an object owns. Right: exact answers on the validation scenes, as
many patches shown as the stage trains with.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from sparsesight.scenes.scenes import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.log.read_text(encoding="utf-8").splitlines()]
    tower = [line for line in lines if line["stage"] == "tower"]
    answers = [line for line in lines if line["stage"] != "tower"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1, 1.5), layout="constrained")
    for name in ("shape", "color", "size", "letter"):
        left.plot([line["seconds"] / 60 for line in tower], [line[name] for line in tower], label=name)
    left.set(title="tower", xlabel="minutes", ylabel="share of patches", ylim=(0, 1.02))
    left.legend(frameon=False)

    minutes, start, last = [], 0.0, answers[0]
    for line in answers:  # a stage's clock starts at 0
        if line["stage"] != last["stage"]:
            start += last["seconds"] / 60
            right.axvline(start, color="0.8", zorder=0)
        minutes.append(start + line["seconds"] / 60)
        last = line
    styles: dict[str, dict[str, Any]] = {"all": {"color": "black", "linewidth": 2.5}}
    for index, name in enumerate(["all", *KINDS]):
        style = styles.get(name, {"color": plt.get_cmap("tab10")(index - 1), "linewidth": 1.2})
        right.plot(minutes, [line[name] for line in answers], label=name, **style)
    right.set(
        title=" | ".join(dict.fromkeys(line["stage"] for line in answers)), xlabel="minutes", ylim=(0, 1.02)
    )
    right.set_ylabel("share of exact answers")
    right.legend(frameon=False, ncols=2, fontsize="small")
    figure.savefig(arguments.picture, dpi=130)


if __name__ == "__main__":
    main()
