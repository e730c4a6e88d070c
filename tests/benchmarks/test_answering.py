"""The shortcut around encoding a picture for every question changes nothing, and counts are what was asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.probing.answering import ANSWER_TOKENS, Examiner, answer, some_examples
from benchmarks.probing.controls import commonest, other_pictures
from sparsesight import sparsify
from sparsesight.methods import SparseVLM
from sparsesight.scenes.dataset import Example

ASKED = some_examples("test", 2)


def ordinary_answer(examiner: Examiner, example: Example, image: Image.Image | None) -> str:
    """One question, prompt and pixels through the processor."""
    prompt = f"USER: {'' if image is None else '<image>' + chr(10)}{example.question.text} ASSISTANT:"
    inputs = examiner.processor(text=prompt, images=image, return_tensors="pt")
    with torch.inference_mode():
        output = examiner.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return examiner.processor.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()


def test_answers_are_the_ordinary_ones(examiner: Examiner) -> None:
    sheet = examiner.own_pictures(ASKED)
    assert sorted(row for batch in sheet.batches for row in batch.rows) == list(range(len(ASKED)))
    assert all(len(batch.rows) <= 4 for batch in sheet.batches)
    assert sheet.answers() == [ordinary_answer(examiner, e, e.image) for e in ASKED]


def test_answers_without_a_picture(examiner: Examiner) -> None:
    assert examiner.sheet(ASKED, None).answers() == [ordinary_answer(examiner, e, None) for e in ASKED]


def test_one_picture_for_all_is_encoded_once(examiner: Examiner) -> None:
    grey = Image.new("RGB", (336, 336), (128, 128, 128))
    batches = examiner.sheet(ASKED, [grey] * len(ASKED)).batches
    features = [one for batch in batches for one in batch.features or []]
    assert len(features) == len(ASKED) and len({one.data_ptr() for one in features}) == 1


def test_pruned_answers_are_the_ordinary_ones(examiner: Examiner) -> None:
    method = SparseVLM(retain=(64,), layers=(0,), recycle=0.0)
    batch = examiner.own_pictures(ASKED).batches[0]
    said = answer(examiner.model, examiner.processor, batch, method)
    with sparsify(examiner.model, method) as run:
        alone = [ordinary_answer(examiner, ASKED[row], ASKED[row].image) for row in batch.rows]
    assert said == alone
    assert run.report.samples[0].visual_per_layer == (576, 64, 64)


def test_a_count_that_is_not_met_stops_the_run(examiner: Examiner) -> None:
    batch = examiner.own_pictures(ASKED).batches[0]
    with pytest.raises(RuntimeError, match="kept"):
        answer(examiner.model, examiner.processor, batch, SparseVLM(retain=(600,), layers=(0,), recycle=0.0))


def test_marks_are_given_once(examiner: Examiner, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = examiner.own_pictures(ASKED)
    said = sheet.answers()
    marks = examiner.marks("dense/once", sheet)
    assert marks.tolist() == [a == e.question.answer for a, e in zip(said, ASKED, strict=True)]
    monkeypatch.setattr("benchmarks.probing.answering.answer", None)
    assert np.array_equal(examiner.marks("dense/once", examiner.own_pictures(ASKED)), marks)


def test_controls() -> None:
    other = other_pictures(ASKED)
    assert all(picture is not example.image for picture, example in zip(other, ASKED, strict=True))
    assert {id(picture) for picture in other} == {id(example.image) for example in ASKED}
    with pytest.raises(ValueError, match="two scenes"):
        other_pictures(some_examples("test", 1))
    prior = commonest(ASKED)
    assert prior.keys() == {example.question.kind for example in ASKED}
    assert commonest(ASKED[::-1]) == prior
