"""Part "raters": which words of a question judge the picture by the published rule, and whether they name things."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from tqdm import tqdm

from sparsesight.methods import SparseVLM
from sparsesight.scenes.questions import plural
from sparsesight.scenes.scenes import COLORS as COLOR_WORDS
from sparsesight.scenes.scenes import LETTERS, SHAPES, SIZES

from .answering import Batch, Examiner, some_examples
from .intervals import GROUPS, by_group, estimate
from .presenting import STYLE, shown, table

SPLIT = "test"
# words that name an object or its look
NAMING = frozenset((*SHAPES, *map(plural, SHAPES), *COLOR_WORDS, *SIZES, *LETTERS))
ATTRIBUTES = frozenset(("color", "shape", "size", "letter"))  # words that name what is asked of it
SORTS = {"names an object": "#0072B2", "names an attribute": "#E69F00", "other": "#999999"}


def sort_of(word: str) -> str:
    """Which of `SORTS` a word belongs to."""
    return "names an object" if word in NAMING else "names an attribute" if word in ATTRIBUTES else "other"


@torch.inference_mode()
def rated_words(examiner: Examiner, batch: Batch) -> list[list[tuple[str, bool]]]:
    """For each prompt, the words after the picture in order, and whether each is a rater."""
    assert batch.features is not None
    tokenizer = examiner.processor.tokenizer
    visual = torch.stack(batch.features)
    # One length and one form of prompt: the picture ends at the same place in all of them.
    is_visual = batch.input_ids[0] == tokenizer.convert_tokens_to_ids(examiner.processor.image_token)
    after = int(is_visual.nonzero()[-1]) + 1
    ids = batch.input_ids[:, after:]
    text = examiner.model.get_input_embeddings()(ids)
    everything = [torch.ones(x.shape[:2], dtype=torch.bool) for x in (visual, text)]
    rater = SparseVLM().select_raters(visual, text, *everything)
    return [
        [(tokenizer.decode([word]).strip(), one) for word, one in zip(row, chosen, strict=True)]
        for row, chosen in zip(ids.tolist(), rater.tolist(), strict=True)
    ]


def run(examiner: Examiner, arguments: Any) -> dict[str, Any]:
    """Shares of questions with a content word among the raters, and how often each word rates."""
    asked = some_examples(SPLIT, arguments.scenes)
    sheet = examiner.own_pictures(asked)
    raters: list[set[str]] = [set() for _ in asked]
    words: list[set[str]] = [set() for _ in asked]
    counts = np.zeros((len(asked), 2))
    for batch in tqdm(sheet.batches, desc="raters", unit="batch"):
        for row, rated in zip(batch.rows, rated_words(examiner, batch), strict=True):
            words[row] = {word for word, _ in rated}
            raters[row] = {word for word, chosen in rated if chosen}
            counts[row] = sum(chosen for _, chosen in rated), len(rated)
    contained, rating = (
        Counter(w for some in words for w in some),
        Counter(w for some in raters for w in some),
    )
    strict = np.array([bool(some & NAMING) for some in raters])
    loose = np.array([bool(some & (NAMING | ATTRIBUTES)) for some in raters])
    only = np.array([some <= NAMING | ATTRIBUTES for some in raters])
    scene = np.array([example.scene.seed for example in asked])
    return {
        "strict": by_group(strict, asked),
        "with_attributes": by_group(loose, asked),
        "nothing_else": estimate(only, scene),
        "mean_raters": round(float(counts[:, 0].mean()), 3),
        "mean_text_tokens": round(float(counts[:, 1].mean()), 3),
        "words": {
            word: {"questions": n, "share": round(rating[word] / n, 4)} for word, n in contained.most_common()
        },
    }


def markdown(numbers: dict[str, Any]) -> str:
    """The shares by group, and the words that rate most often."""
    rows = [
        [group, f"{found['n']:.0f}", shown(found), shown(numbers["with_attributes"][group])]
        for group in GROUPS
        if (found := numbers["strict"].get(group))
    ]
    ranked = sorted(numbers["words"].items(), key=lambda item: -item[1]["share"])
    words = [[_visible(w), sort_of(w), f"{x['questions']}", f"{x['share']:.3f}"] for w, x in ranked]
    about = (
        f"Split {SPLIT}. Share of the questions in which a word that names an object (shape, colour, size) is a rater "
        "by the published rule, and in which such a word or the name of an attribute (color, shape, size, letter) is. "
        f"Of {numbers['mean_text_tokens']:.1f} tokens after the picture {numbers['mean_raters']:.2f} rate on average; "
        f"in a share of {shown(numbers['nothing_else'])} of the questions no other word does.\n\n"
    )
    return "\n".join(
        [
            about + table(["questions", "n", "names an object", "or an attribute"], rows),
            table(["word", "sort", "questions with it", "share in which it rates"], words),
        ]
    )


def plot(numbers: dict[str, Any], path: Path) -> None:
    """A bar for each word: the share of the questions containing it in which it rates."""
    ranked = sorted(numbers["words"].items(), key=lambda item: (item[1]["share"], item[0]))
    names = [f"{_visible(word)}  ({found['questions']})" for word, found in ranked]
    colors = [SORTS[sort_of(word)] for word, _ in ranked]
    with plt.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, axes = plt.subplots(figsize=(9, 1.6 + 0.22 * len(names)), layout="constrained")
        axes.barh(names, [found["share"] for _, found in ranked], color=colors)
        axes.set_xlim(0, 1)
        axes.margins(y=0.01)
        axes.tick_params(axis="y", labelsize=10)
        axes.set_xlabel("share of the questions containing the word in which it rates")
        axes.set_title(
            "Raters by the published rule (in brackets: questions with the word)", loc="left", fontsize=11
        )
        handles = [Patch(color=color) for color in SORTS.values()]
        axes.legend(handles, list(SORTS), loc="lower right", frameon=True)
        figure.savefig(path)
        plt.close(figure)


def _visible(word: str) -> str:
    return "\\n" if word == "\n" else word
