"""Where the prompt ends in a plain forward: an answer that comes with it judges nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsesight import METHODS, SparseSightError, prompt_ends, sparsify
from sparsesight.hf.prompt.answers import Labels, PromptEnds
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, model
from tests.in_turn import in_turn

ANSWERS = (
    "red",
    "a small blue ring",
    "blue",
    "left of the star",
)  # of tiny.SAMPLES: other lengths in a batch


def with_answers(side: str, answers: tuple[str, ...] = ANSWERS) -> tuple[Any, torch.Tensor]:
    """A batch of prompts with answers, and which of its tokens are the answers'."""
    tools = tiny.processor("llava")
    tools.tokenizer.padding_side = side
    texts = [
        (f"{text} {answer}", images) for (text, images), answer in zip(tiny.SAMPLES, answers, strict=True)
    ]
    inputs = tiny.inputs(tools, texts)
    real, answered = inputs["attention_mask"].bool(), torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for i, answer in enumerate(answers):
        answered[i, real[i].nonzero()[-len(answer.split()) :, 0]] = True
    return positioned(inputs), answered


def positioned(inputs: Any) -> Any:
    """With positions that padding does not move, as DART compares rotated keys."""
    return {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}


Telling = Callable[[Any, Any, torch.Tensor], Any]


def by_labels(built: Any, inputs: Any, answered: torch.Tensor) -> Any:
    return built(**inputs, labels=torch.where(answered, inputs["input_ids"], -100))


def by_shifted_labels(built: Any, inputs: Any, answered: torch.Tensor) -> Any:
    labels = torch.where(answered, inputs["input_ids"], -100)
    return built(**inputs, shift_labels=torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100))


def by_context(built: Any, inputs: Any, answered: torch.Tensor) -> Any:
    with prompt_ends(built, answered.int().argmax(1)):
        return built(**inputs)


def by_context_rather_than_labels(built: Any, inputs: Any, answered: torch.Tensor) -> Any:
    with prompt_ends(built, answered.int().argmax(1).tolist()):
        return built(**inputs, labels=inputs["input_ids"])


@pytest.mark.filterwarnings("ignore:labels")
@pytest.mark.parametrize(("method", "side"), in_turn(sorted(METHODS), ["left", "right"]))
def test_an_answer_judges_nothing(method: str, side: str) -> None:
    """Kept tokens are those of the prompt alone, each sample's own, however the call says where it ends."""
    if METHODS[method].requires_text_tower:
        pytest.skip("compares the question that it is given")
    ways: list[Telling] = [by_labels, by_shifted_labels, by_context, by_context_rather_than_labels]
    way = ways[(sorted(METHODS).index(method) // 2 + (side == "right")) % len(ways)]
    built, (inputs, answered) = model("llava"), with_answers(side)
    with sparsify(built, method, retain=0.4) as run, torch.no_grad():
        built(**positioned(batch("llava")))
        expected = run.kept
        logits = way(built, inputs, answered).logits
        assert run.kept, "nothing was pruned"
        for stage, alone in zip(run.kept, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, alone, strict=True))
        for i in range(4):
            assert not (run.raters(i) & answered[i]).any()
        other, _ = with_answers(
            side,
            tuple(
                ["how", "many", "?", "what"][i % 4] + a[a.find(" ") :] * (" " in a)
                for i, a in enumerate(ANSWERS)
            ),
        )
        assert (other["input_ids"] == inputs["input_ids"])[~answered].all()
        assert (other["input_ids"] != inputs["input_ids"])[answered].any()
        again = way(built, other, answered).logits
        asked = inputs["attention_mask"].bool() & ~answered
        close(again[asked], logits[asked])


def test_a_scored_answer_equals_the_generated_one() -> None:
    """The log-likelihood of what was generated is what generation gave it."""
    built, prompt = model("llava"), batch("llava", (0, 1))
    with sparsify(built, retain=0.4) as run, torch.no_grad():
        out = built.generate(
            **prompt, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        kept = run.kept
        whole = {**prompt, "input_ids": out.sequences}
        whole["attention_mask"] = torch.nn.functional.pad(prompt["attention_mask"], (0, 6), value=1)
        with prompt_ends(built, -6):
            logits = built(**whole).logits
        assert all(torch.equal(a[i], b[i]) for a, b in zip(kept, run.kept, strict=True) for i in range(2))
        close(logits[:, -7:-1], torch.stack(out.logits, 1))
        with prompt_ends(built, -6):
            few = built(**whole, logits_to_keep=7).logits
        close(few, logits[:, -7:])


@pytest.mark.parametrize(
    ("labels", "start"),
    [
        ("......xxx", 6),  # an answer
        ("......x.x", 6),  # of two parts: what follows the first is no prompt either
        (".........", 9),  # none
        (".....xxxx", 5),
        ("....xxxxx", 4),  # a picture without a question: nothing judges
        ("xxxxxxxxx", 9),  # of a language model: on everything
        ("xx..xxxxx", 9),  # ... but pictures
        ("xx...xxxx", 9),  # ... and what is predicted from them
        ("x......xx", 7),  # an answer to an earlier turn, and one to this one
        ("x........", 9),
        ("x....xxxx", 5),  # ... after a single token of template
    ],
)
def test_where_labels_begin(labels: str, start: int) -> None:
    visual = torch.zeros(1, 9, dtype=torch.bool)
    visual[:, 2:4] = True
    values = torch.tensor([[1 if x == "x" else -100 for x in labels]])
    found = Labels.of({"labels": values})
    assert found is not None and found.answer_start(visual) == torch.tensor([start])


def test_generation_knows_its_own_prompt() -> None:
    built, prompt = model("llava"), batch("llava")
    how = {"max_new_tokens": 2, "do_sample": False}
    with sparsify(built, retain=0.4) as run:
        expected = built.generate(**prompt, **how)
        raters = run.raters()
        with prompt_ends(built, -2):
            assert torch.equal(built.generate(**prompt, **how), expected)
        assert torch.equal(raters, run.raters())


@pytest.mark.parametrize(
    "ends",
    [1.5, [1, 2.5], "end", [], True, torch.tensor([0.5]), torch.ones(2, 2).long(), [[1]], None, np.ones(2)],
)
def test_what_is_no_column_is_refused(ends: Any) -> None:
    with pytest.raises(SparseSightError, match="prompt_ends: ends="), prompt_ends(model("llava"), ends):
        pass


@pytest.mark.parametrize(
    "ends", [-2, [-2], range(-2, -1), torch.tensor(-2), torch.tensor([-2]), np.int64(-2), np.array([-2])]
)
def test_whole_numbers_of_any_kind_are_columns(ends: Any) -> None:
    assert PromptEnds.of(ends) == PromptEnds((-2,))


def test_ends_that_do_not_fit_are_refused() -> None:
    built, prompt = model("llava"), batch("llava")
    calls: list[int] = []
    with sparsify(built, retain=0.4), torch.no_grad():
        hook = built.get_decoder().layers[0].register_forward_pre_hook(lambda *a: calls.append(1))
        for ends in ([1, 2, 3], 1000, -1000):
            with (
                pytest.raises(SparseSightError, match=r"prompt_ends: .* for a batch of 4"),
                prompt_ends(built, ends),
            ):
                built(**prompt)
        hook.remove()
        assert not calls
        built(**prompt)  # they are forgotten
    with prompt_ends(built, 1000), torch.no_grad():  # of a model that is not sparsified
        built(**prompt)
