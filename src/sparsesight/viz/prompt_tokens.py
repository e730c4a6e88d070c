"""The tokens of a prompt as text, with its raters marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.turns import of_template
from ..errors import SparseSightError

if TYPE_CHECKING:
    from ..hf.sparsified import Sparsified

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Word:
    """A token of text, or a run of visual ones.

    Attributes:
        text: with the blanks before it; empty for visual tokens.
        rates: whether it is a rater.
        visual: number of visual tokens at this position.
        template: whether the chat template wrote it: a special token, a marker of a turn, a blank of the template.
    """

    text: str
    rates: bool = False
    visual: int = 0
    template: bool = False


def question_words(words: Sequence[Word]) -> list[Word]:
    """The text about the last picture, without what the chat template wrote.

    It is the text after the picture, or where that is template alone, the text before it.
    """
    last = max((i for i, word in enumerate(words) if word.visual), default=-1)
    after = _asked(words[last + 1 :])
    return after or _asked([word for word in words[: max(last, 0)] if not word.visual])


def _asked(words: Sequence[Word]) -> list[Word]:
    own = [i for i, word in enumerate(words) if not word.template and word.text.strip()]
    if not own:
        return []
    # A blank between two words counts as template, too.
    return [
        replace(word, rates=word.rates and not word.template)
        for word in words[own[0] : own[-1] + 1]
        if not (word.template and word.text.strip())
    ]


def prompt_words(run: Sparsified, processor: Any, inputs: Mapping[str, Any], sample: int) -> tuple[Word, ...]:
    """The words of a sample's prompt.

    Raises:
        SparseSightError: ``inputs`` are not those of the last prefill.
    """
    ids = np.asarray(inputs["input_ids"][sample].cpu())
    rates = np.asarray(run.raters(sample))
    if len(rates) < len(ids):
        raise SparseSightError(
            f"inputs: their prompt has {len(ids)} tokens, but the last prefill took {len(rates)}: give those of that "
            "call"
        )
    mask = inputs.get("attention_mask")
    real = np.ones(len(ids), dtype=bool) if mask is None else np.asarray(mask[sample].cpu()).astype(bool)
    visual = np.isin(ids, run.visual_ids)
    if run.visual_ids and int((visual & real).sum()) != run.report.samples[sample].visual_tokens:
        raise SparseSightError(
            f"inputs: their prompt has {int((visual & real).sum())} visual tokens, but the last prefill had "
            f"{run.report.samples[sample].visual_tokens}: give those of that call"
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "decode"):
        raise SparseSightError(
            f"processor={type(processor).__name__}: it has no tokenizer to read inputs with"
        )
    template = _template(run, processor, ids)
    words: list[Word] = []
    at = np.flatnonzero(real)
    for is_visual, group in groupby(at, key=lambda i: bool(visual[i])):
        columns = list(group)
        if is_visual:
            words.append(Word("", visual=len(columns)))
        else:
            words += _pieces(
                tokenizer, ids[columns].tolist(), rates[columns].tolist(), template[columns].tolist()
            )
    return tuple(words)


def _template(run: Sparsified, processor: Any, ids: np.ndarray) -> np.ndarray:
    """Which tokens [n] the chat template wrote, by the turns that the run knows, else by the processor's template;
    without one, special tokens alone."""
    tokenizer = getattr(processor, "tokenizer", processor)
    found = np.isin(ids, getattr(tokenizer, "all_special_ids", None) or [-1])
    turns = of_template(processor) if run.turns is None else run.turns
    marks = None if turns is None else turns.marks(torch.from_numpy(ids)[None]).template
    return found if marks is None else found | np.asarray(marks[0])


def _pieces(
    tokenizer: Any, ids: Sequence[int], rates: Sequence[bool], template: Sequence[bool]
) -> list[Word]:
    """The text of each token: what it adds to that of those before."""
    words, before, rating = [], "", False
    for i, rates_here in enumerate(rates):
        text = tokenizer.decode(ids[: i + 1], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        rating = rating or bool(rates_here)
        if text.endswith(UNFINISHED) and i + 1 < len(ids):  # a character of several tokens
            continue
        if text[len(before) :]:
            words.append(Word(text[len(before) :], rating, template=template[i]))
        before, rating = text, False
    return words
