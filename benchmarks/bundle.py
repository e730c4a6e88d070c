"""Put a trained model into the package, with pictures and questions that it answers correctly.

    python benchmarks/bundle.py --model runs/bundled/model

The pictures are the first scenes from seed 7,000,000 on, which no split holds, about which the model answers at least
one question of every kind rightly. They show the model at work and measure nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from probe_bundled import load_from
from probing.answering import Sheet

from sparsesight import bundled
from sparsesight.scenes.dataset import Example
from sparsesight.scenes.scenes import KINDS, VERSION, Question, Scene, questions, render

FIRST_SEED = 7_000_000
PICTURES = 4
ASKED = 48  # questions of a scene, of which the first two of every kind are tried


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder that train_bundled.py wrote")
    parser.add_argument("--to", type=Path, default=bundled.MODEL_PATH.parent, help="default: the package")
    arguments = parser.parse_args()
    model, processor = load_from(arguments.model)
    catalogue, images, seed = {}, {}, FIRST_SEED
    while len(images) < PICTURES:
        scene = render(seed)
        told = answered(model, processor, scene)
        if {question.kind for question in told} == set(KINDS):
            name = f"scene-{seed}.png"
            images[name] = scene.image
            catalogue[name] = {
                "seed": seed,
                "version": VERSION,
                "questions": [
                    {"question": question.text, "answer": question.answer, "kind": question.kind}
                    for question in told
                ],
            }
        seed += 1
    write(arguments.model, images, catalogue, arguments.to)
    print(f"{arguments.to}: {', '.join(images)}")


def answered(model: Any, processor: Any, scene: Scene) -> list[Question]:
    """The questions that the model answers correctly, one of each kind at most, in the order of kinds."""
    asked = questions(scene, ASKED)
    tried = [q for kind in KINDS for q in [q for q in asked if q.kind == kind][:2]]
    sheet = Sheet(
        model, processor, [Example("", scene, q, "") for q in tried], [scene.image] * len(tried), 16
    )
    right: dict[str, Question] = {}
    for question, said in zip(tried, sheet.answers(), strict=True):
        if said == question.answer:
            right.setdefault(question.kind, question)
    return [right[kind] for kind in KINDS if kind in right]


def write(model: Path, images: dict[str, Image.Image], catalogue: object, to: Path) -> None:
    """The package's `model` and `pictures` folders, in place of those that were there."""
    for name in ("model", "pictures"):
        shutil.rmtree(to / name, ignore_errors=True)
    shutil.copytree(model, to / "model")
    (to / "pictures").mkdir(parents=True)
    for name, image in images.items():
        image.save(to / "pictures" / name, optimize=True)
    text = json.dumps(catalogue, indent=2) + "\n"
    (to / "pictures" / "questions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
