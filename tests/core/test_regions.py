"""Which text judges which visual tokens, told from prompts written as letters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsesight.core.facts import AFTER, BEFORE_PICTURE, NOTHING, RegionFacts
from sparsesight.core.regions import Marks, Regions, assign, covered, matches


def rows(prompts: list[str], letters: str) -> Tensor:
    return torch.tensor([[letter in letters for letter in prompt] for prompt in prompts])


def regions(prompts: list[str], turns: bool = True, template: bool = True, answered: str = "") -> Regions:
    """V visual, q question, a answer, t template, ! template that ends a turn, > template that begins one, | a
    document's first row (text), . padding."""
    visual = rows(prompts, "V")
    opened = rows(prompts, ">")
    start = torch.zeros_like(opened)
    start[:, 1:] = opened[:, :-1]
    marks = Marks(
        end=rows(prompts, "!") if turns else None,
        start=start if opened.any() else None,
        template=rows(prompts, "t!>") if template else None,
        document=rows(prompts, "|"),
        answer=rows(prompts, answered) if answered else None,
    )
    return assign(visual, ~visual & ~rows(prompts, "."), marks)


def drawn(found: Regions, i: int = 0) -> str:
    """The number of its region under every judging row."""
    number = torch.zeros_like(found.text, dtype=torch.long) if found.number is None else found.number
    return "".join(str(int(n)) if t else "-" for n, t in zip(number[i], found.text[i], strict=True))


@pytest.mark.parametrize(
    ("prompt", "judges"),
    [
        ("tVVqqt!", "---0000"),  # one turn
        ("tVVqqt!qqqtqqt!", "---0000--------"),  # a later turn of text alone does not judge
        ("qqt!tVVqt!", "-------000"),  # neither does an earlier one
        (
            "tVqVqt!qqtVqt!q",
            "----000----111-",
        ),  # pictures of a turn go together; nothing is left of the last answer
        ("tVqt!qq>qtVqt!", "--000------111"),
        ("..tVqt!", "----000"),  # padding
        ("tVVqq", "---00"),  # nothing ends the turn
        ("tVVqt!VV", "---000--"),  # a second picture without text is a region, and nothing judges it
    ],
)
def test_turns(prompt: str, judges: str) -> None:
    assert drawn(regions([prompt])) == judges


@pytest.mark.parametrize(
    ("prompt", "judges"),
    [
        ("t>qqVVt!", "--00----"),  # the question in front of its picture, what begins the turn aside
        ("t>qqVqVt!", "--00-0---"),  # and between two
        ("t>qVqt!", "----000"),  # behind it too: as published
        ("t>ttVt!", "-----00"),  # nothing but template anywhere: that judges after all
        ("t>Vqt!qqt>qVt!", "---000----1---"),  # an answer is no part of the next question
        ("t>qV", "--0-"),  # and behind the picture nothing at all
    ],
)
def test_question_in_front(prompt: str, judges: str) -> None:
    assert drawn(regions([prompt])) == judges
    assert "0" not in drawn(regions([prompt], template=False)).split("V")[0][: prompt.index("V")]


@pytest.mark.parametrize(
    ("prompt", "judges"),
    [
        ("VVqq|Vq", "--00--1"),
        ("qq|VVq|q|Vqq", "-----0----11"),  # documents without pictures
        ("Vqt!qVq|Vq", "-000--1--2"),  # turns within documents
    ],
)
def test_documents(prompt: str, judges: str) -> None:
    assert drawn(regions([prompt])) == judges


def test_a_batch_is_what_each_is_alone() -> None:
    prompts = ["tVVqqt!qqtVqt!", "........tVVqt!", "qqqqqqqqqqqqqq", "..t>qqVVqVVVt!"]
    found = regions(prompts)
    assert [size.visual for size in found.sizes] == [(2, 2, 0, 5), (1, 0, 0, 0)]
    assert [size.text for size in found.sizes] == [(4, 3, 0, 3), (3, 0, 0, 0)]
    for i, prompt in enumerate(prompts):
        assert drawn(found, i) == drawn(regions([prompt]))
    assert found.facts[0][0] == RegionFacts(0, 4, AFTER) and found.facts[1][0] == RegionFacts(1, 3, AFTER)
    assert found.facts[0][3] == RegionFacts(0, 3, BEFORE_PICTURE) and found.facts[0][2] is None
    assert regions(["qV|q"], template=False).facts == ((RegionFacts(0, 0, NOTHING),),)


def test_one_region_each_needs_no_numbers() -> None:
    assert regions(["tVVqqt!", "tqtqVt!"]).number is None


def test_matches() -> None:
    ids = torch.tensor([[1, 2, 3, 1, 2, 1, 2], [2, 3, 4, 4, 1, 2, 3]])
    found = matches(ids, [(1, 2), (4,), (2, 3, 9), (1,) * 9, ()])
    assert found.nonzero().tolist() == [[0, 1], [0, 4], [0, 6], [1, 2], [1, 3], [1, 5]]
    assert covered(matches(ids, [(1, 2)]), 2)[1].tolist() == [False] * 4 + [True, True, False]


@pytest.mark.parametrize(
    ("prompt", "answer", "judges"),
    [
        ("VqqaaaVqqaa", "   xxx   xx", "-------00--"),  # one region: behind its last picture
        ("Vqqaa|Vqaa", "   xx   xx", "-00----1--"),  # every document to its own answer
        ("Vqqaa|Vqqq", "   xx     ", "-00----111"),
        ("Vqqaa|qVqaa", "xxxxxxxxxxx", "-0000---111"),  # labels on everything tell nothing
    ],
)
def test_answers_do_not_judge(prompt: str, answer: str, judges: str) -> None:
    """In prompts without turns."""
    visual, labelled = rows([prompt], "V"), rows([answer], "x")
    found = assign(visual, ~visual, Marks(document=rows([prompt], "|"), answer=labelled))
    assert drawn(found) == judges


@pytest.mark.parametrize("answered", ["", "a"])
@pytest.mark.parametrize(
    ("prompt", "judges"),
    [
        ("t>Vqt!aat>Vqqt!aa", "---000-----1111--"),
        ("t>qVt!aat>Vqt!aat>qVt!aa", "--0--------111----2-----"),
        ("t>qVt!aat>qqt!aat>Vqqt!aa", "--0----------------1111--"),
    ],
)
def test_no_answer_of_a_chat_judges(prompt: str, judges: str, answered: str) -> None:
    """With labels on all answers, and without any."""
    assert drawn(regions([prompt], answered=answered)) == judges


def test_an_answer_is_no_question_in_front() -> None:
    """Where nothing tells how a user's text begins."""
    assert drawn(regions(["tVqt!aatqVt!aa"], answered="a")) == "--000---1-----"
