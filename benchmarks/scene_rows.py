"""Writes rendered scenes as own data: pictures, and a JSONL file with one question about each.

    python benchmarks/scene_rows.py outputs/rows --scenes 1000 --first-seed 9000000

Seeds from 9,000,000 on belong to no split (sparsesight.scenes.dataset): no weight and no rule has seen them. Kinds of
questions come in the proportions of training.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from sparsesight.scenes.dataset import CLUTTER, SMALL
from sparsesight.scenes.objects import Recipe
from sparsesight.scenes.scenes import KINDS, PLAIN, questions, render

ASKED = 64  # questions of a scene, as in training: some are of every kind
RECIPES: dict[str, Recipe] = {"plain": PLAIN, "occluded": SMALL, "clutter": CLUTTER}


def write_scene(folder: Path, recipe: Recipe, kind: str | None, seed: int) -> dict[str, str]:
    """Render a scene into a folder; its row, with its first question, or its first one of a kind."""
    scene = render(seed, recipe)
    asked = questions(scene, 1 if kind is None else ASKED)
    question = next(x for x in asked if kind in (None, x.kind))
    name = f"scene-{seed}.png"
    scene.image.save(folder / name)
    return {"image": name, "question": question.text}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="a folder")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=9_000_000)
    parser.add_argument("--recipe", choices=RECIPES, default="plain")
    parser.add_argument("--kind", choices=KINDS, help="ask this kind of question alone")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make = partial(write_scene, options.out, RECIPES[options.recipe], options.kind)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    with ProcessPoolExecutor(options.workers) as pool, (options.out / "rows.jsonl").open("w") as file:
        for row in pool.map(make, seeds, chunksize=16):
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
