"""The page that shows what sparsesight.viz draws: the bundled model, a bundled picture, several methods and questions.

    python benchmarks/gallery.py

Writes docs/gallery/README.md and the pictures beside it. Every answer on it is the model's own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sparsesight import sparsify, viz
from sparsesight.bundled import default_picture, load, picture_questions
from sparsesight.method_names import DEFAULT
from sparsesight.viz.chart import svg

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "gallery"
RETAIN = 64
METHODS = (DEFAULT, "cdpruner", "sparsevlm+", "sparsevlm", "dart", "visionzip", "tome", "random")
BUDGETS = (192, 128, 64, 32)
QUESTIONS = (
    "What color is the heart?",
    "What letter is on the white card?",
    "Where is the green ring?",
    "What is left of the orange card?",
)

PAGE = """# Gallery

What `sparsesight.viz` draws, on the bundled model and one of its pictures ({picture}, {visual} visual tokens, 8
decoder layers). `python benchmarks/gallery.py` generates this page; all answers are the model's.

```python
from PIL import Image
from sparsesight import sparsify, viz
from sparsesight.bundled import default_picture, load

model, processor = load()
image = Image.open(default_picture())
inputs = processor(
    text="USER: <image>\\n{question} ASSISTANT:", images=image, return_tensors="pt"
)
with sparsify(model, "sparsevlm", retain={retain}, processor=processor) as run:
    model.generate(**inputs, max_new_tokens=5, do_sample=False)
seen = viz.look(run, image, processor, inputs)
```

## One figure: `viz.figure(seen, question=..., answers=...)`

![Question, answers, what was saved, scores, the patches that each stage kept, visual tokens per layer](figure.jpg)

`{default}`, the default, retain {retain}. `sparsesight ask QUESTION --save kept.svg` draws the same.

## Every stage: `viz.stages(seen)`

![The picture, and the patches that remain after layers 0, 1 and 3](stages.jpg)

`sparsevlm`, retain {retain}: kept patches are unchanged and outlined in orange; hatched ones, in the mean
colour of their group, were merged into the tokens at the dots; grey ones were dropped. The raters among the question's
words are on yellow.
The model answers "{answer}".

## One stage after the other: `viz.animate(seen)`

![The same as an animation](stages.gif)

## The score of each patch: `viz.heatmap(seen, 0)`

![Scores of all patches after layer 0, dark blue to yellow](scores.jpg)

## The question decides: `viz.side_by_side(looks)`

![The same picture with four questions, and the patches that each question kept](questions.jpg)

`{default}`, retain {retain}, before the first layer: half of the tokens by the question and variety, half by
variety alone.

## Methods

![The patches that each of eight methods kept](methods.jpg)

All of them hold {retain} tokens on average over the layers. The pictures show them after the last stage.

## Budgets

![The patches that remain at retain 192, 128, 64 and 32](budgets.jpg)

## Tokens per layer: `viz.staircase(looks)`

![Visual tokens entering each of the 8 layers, by budget](staircase.svg)

A page with all of these, in one file: `viz.page(seen)`, or `sparsesight ask --save kept.html`.
"""


class Examiner:
    """The bundled model in front of one picture."""

    def __init__(self) -> None:
        self.model, self.processor = load()
        self.path = default_picture()
        self.image = Image.open(self.path).convert("RGB")

    def ask(self, question: str, method: str, retain: float) -> tuple[viz.Look, str]:
        """A look, and what was answered."""
        prompt = f"USER: <image>\n{question} ASSISTANT:"
        inputs: Any = self.processor(text=prompt, images=self.image, return_tensors="pt")
        with (
            sparsify(self.model, method, retain=retain, processor=self.processor) as run,
            torch.inference_mode(),
        ):
            output = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        answer = self.processor.decode(new, skip_special_tokens=True).strip()
        return viz.look(run, self.image, self.processor, inputs), answer


def save(picture: Image.Image, name: str) -> None:
    picture.save(FOLDER / name, quality=84, subsampling=0, optimize=True)


def _draw_figure(examiner: Examiner) -> None:
    question = QUESTIONS[0]
    _, dense = examiner.ask(question, DEFAULT, 1.0)
    look, sparse = examiner.ask(question, DEFAULT, RETAIN)
    drawn = io.BytesIO()
    viz.figure(look, question=question, answers={"dense": dense, "sparse": sparse}).savefig(drawn, dpi=110)
    save(Image.open(drawn).convert("RGB"), "figure.jpg")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    examiner = Examiner()
    rightly = {q["question"]: q["answer"] for q in picture_questions()[examiner.path.name]}
    seen, answer = examiner.ask(QUESTIONS[0], "sparsevlm", RETAIN)
    save(viz.stages(seen, size=400), "stages.jpg")
    save(viz.heatmap(seen, 0, size=400), "scores.jpg")
    (FOLDER / "stages.gif").write_bytes(viz.animate(seen, size=320, steps=2))

    asked = {}
    for question in QUESTIONS:
        look, said = examiner.ask(question, DEFAULT, RETAIN)
        asked[
            f"{question}\nanswer: {said}"
            + ("" if said == rightly[question] else f" (right: {rightly[question]})")
        ] = look
    save(viz.side_by_side(asked, stage=0, size=264, columns=2), "questions.jpg")
    # One below the other: on a phone, captions of two columns would be of 8 pixels.
    two = {name: asked[name] for name in list(asked)[:2]}
    save(viz.side_by_side(two, stage=0, size=480, columns=1), "../questions-phone.jpg")
    _draw_figure(examiner)

    methods = {}
    for method in METHODS:
        look, said = examiner.ask(QUESTIONS[0], method, RETAIN)
        methods[f"{method}\nanswer: {said}"] = look
    save(viz.side_by_side(methods, size=280, columns=4), "methods.jpg")

    budgets, stairs = {}, {}
    for retain in BUDGETS:
        look, said = examiner.ask(QUESTIONS[0], DEFAULT, retain)
        budgets[f"{DEFAULT}, retain {retain}\nanswer: {said}"] = stairs[f"retain {retain}"] = look
    save(viz.side_by_side(budgets, size=280, columns=4), "budgets.jpg")
    (FOLDER / "staircase.svg").write_text(svg(viz.staircase(stairs)), encoding="utf-8")

    facts = {"picture": examiner.path.name, "visual": seen.visual, "question": QUESTIONS[0], "retain": RETAIN}
    facts["default"] = DEFAULT
    (FOLDER / "README.md").write_text(PAGE.format(**facts, answer=answer), encoding="utf-8")


if __name__ == "__main__":
    main()
