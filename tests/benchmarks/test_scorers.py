"""Scorers keep exactly the count, and the tokens that they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.probing.answering import Batch, Examiner, some_examples
from benchmarks.probing.raters import rated_words, sort_of
from benchmarks.probing.scorers import SCORERS, VisualMaskSpec, known_scores, method_maker, relevant
from sparsesight import SparseSightError, sparsify
from sparsesight.methods import Method

ASKED = some_examples("test", 2)
KNOWN = known_scores(ASKED)


def pruned(examiner: Examiner, batch: Batch, method: Method) -> Any:
    """The handle after a prefill of the batch, pictures encoded from pixels."""
    images = [ASKED[row].image for row in batch.rows]
    pixels = examiner.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode(), sparsify(examiner.model, method, trace=True) as run:
        examiner.model(input_ids=batch.input_ids, pixel_values=pixels)
    return run


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("depth", "budget"), [(1, 288), (2, 32)])
def test_exactly_the_budget_is_kept(examiner: Examiner, scorer: str, depth: int, budget: int) -> None:
    batch = examiner.own_pictures(ASKED).batches[0]
    run = pruned(examiner, batch, method_maker(scorer, depth, budget, KNOWN)(batch.rows))
    assert [[len(sample) for sample in stage] for stage in run.kept] == [[budget] * len(batch.rows)]
    entering = run.report.samples[0].visual_per_layer
    assert entering == (576,) * depth + (budget,) * (3 - depth)
    if scorer in KNOWN:
        for row, kept in zip(batch.rows, run.kept[0], strict=True):
            assert (
                kept.tolist() == KNOWN[scorer][row].argsort(descending=True)[:budget].sort().values.tolist()
            )


@pytest.mark.parametrize(("scorer", "rating"), [("last token", [-1]), ("all text", None)])
def test_who_judges(examiner: Examiner, scorer: str, rating: list[int] | None) -> None:
    batch = examiner.own_pictures(ASKED).batches[0]
    seen = pruned(examiner, batch, method_maker(scorer, 1, 64, KNOWN)(batch.rows)).trace[0].stage.rater
    expected = torch.zeros_like(seen)
    expected[:, slice(None) if rating is None else rating] = True
    assert torch.equal(seen, expected)


def test_rated_words_are_the_raters_of_the_run(examiner: Examiner) -> None:
    for batch in examiner.own_pictures(ASKED).batches:
        seen = pruned(examiner, batch, method_maker("raters", 1, 64, KNOWN)(batch.rows)).trace[0].stage.rater
        words = rated_words(examiner, batch)
        assert [[chosen for _, chosen in row] for row in words] == seen.tolist()
        for row, rated in zip(batch.rows, words, strict=True):
            said = "".join(word for word, _ in rated)
            assert said == f"{ASKED[row].question.text} ASSISTANT:".replace(" ", "")


def test_relevant_patches_come_first() -> None:
    for row, example in enumerate(ASKED):
        mine = torch.tensor(relevant(example))
        assert bool(mine.any()) == bool(example.question.objects)
        scores = KNOWN["relevant"][row]
        if mine.any():
            assert scores[mine].min() >= 1 > scores[~mine].max()
        # Otherwise the draw of the control; float32 leaves 1 + x fewer digits than x.
        assert torch.allclose(scores - mine.float(), KNOWN["random"][row], atol=1e-6)


def test_draws_differ_between_questions_and_are_repeatable() -> None:
    assert len(KNOWN["random"].unique(dim=0)) == len(ASKED)
    assert torch.equal(known_scores(ASKED[-2:])["random"], KNOWN["random"][-2:])


def test_scores_must_fit_the_batch(examiner: Examiner) -> None:
    batch = examiner.own_pictures(ASKED).batches[0]
    for given in (None, KNOWN["random"][:0]):
        with pytest.raises(SparseSightError, match="given"):
            pruned(examiner, batch, VisualMaskSpec(retain=(64,), layers=(0,), given=given))


def test_sorts_of_words() -> None:
    assert {sort_of(word) for word in ("circle", "crosses", "red", "small", "K")} == {"names an object"}
    assert sort_of("color") == "names an attribute"
    assert {sort_of(word) for word in ("?", "the", "objects", "left", "a")} == {"other"}
