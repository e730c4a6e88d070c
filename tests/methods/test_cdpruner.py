"""CDPruner: what the question is about, and of that no two alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sparsesight.core.budget import StageSizes
from sparsesight.core.stage import StageInput
from sparsesight.errors import SparseSightError
from sparsesight.methods import CDPruner, Compose, from_dict, parse

from .kept_tokens import check_any_batch, kept
from .stages import Sample, build, normal


def relevance(sample: Sample) -> np.ndarray:
    hidden = sample.hidden.double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    r = (unit[sample.at_visual] @ unit[sample.at_text].T).mean(1)
    return (r - r.min()) / (r.max() - r.min())


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_by_determinants(seed: int) -> None:
    """Every greedy step enlarges the determinant of the kept part of the kernel most."""
    sample = Sample.random(seed, 4, 25, 7)
    sample.hidden = normal(seed + 70, sample.length, 16)
    r = relevance(sample)
    _, stage = build(CDPruner((9,)), [sample])
    np.testing.assert_allclose(CDPruner().relevance(stage)[0].numpy(), r, atol=1e-6)
    hidden = sample.hidden[sample.at_visual].double().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    kernel = r[:, None] * (unit @ unit.T) * r
    chosen: list[int] = []
    for _ in range(9):
        free = [i for i in range(25) if i not in chosen]
        chosen.append(max(free, key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])))
    assert kept(CDPruner((9,)), sample) == [sorted(chosen)]


def about(words: list[int]) -> Sample:
    """Five textures in a picture, a question of words that are like some of them; twelve tokens of each texture."""
    sample = Sample.random(0, 2, 60, len(words))
    sample.hidden = 0.02 * normal(3, sample.length, 8)
    sample.hidden[2:62] += torch.eye(8)[torch.arange(60) // 12]
    sample.hidden[62:] += torch.eye(8)[words]
    return sample


def test_what_is_asked_for_comes_first_and_only_once() -> None:
    """Two textures are asked for: one token of each, not two of the one that is asked for more."""
    for words in ([3, 3, 3, 1], [0, 4], [2, 2, 0]):
        chosen = kept(CDPruner((2,)), about(words))[0]
        assert sorted(i // 12 for i in chosen) == sorted(set(words))


def test_another_relevance_takes_its_place() -> None:
    """Such as that of a text tower, which the caller has: the question's words do not count any more."""
    given = torch.zeros(60)
    given[[5, 30, 31]] = torch.tensor([0.5, 1.0, 0.9])

    class OfTower(CDPruner):
        def relevance(self, stage: StageInput) -> torch.Tensor:
            return given[stage.origin]

    assert kept(OfTower((2,)), about([4, 4])) == [[5, 30]]  # 31 is of the texture of 30


def test_equal_relevance_leaves_diversity() -> None:
    """A question that has nothing in common with the picture, the same for all: one of every texture."""
    sample = about([0])
    sample.hidden[2:62] = torch.eye(8)[torch.arange(60) // 12]
    sample.hidden[62:] = torch.eye(8)[7]
    _, stage = build(CDPruner((5,)), [sample])
    assert torch.equal(CDPruner().relevance(stage), torch.ones(1, 60))
    assert kept(CDPruner((5,)), sample) == [[0, 12, 24, 36, 48]]


def test_the_text_tower_judges_in_place_of_the_words() -> None:
    """By the negative of its cosine, stretched over the sample; a token without a patch is the last to be taken."""
    sample = about([4, 4])
    given = torch.full((60,), 0.1)
    given[[5, 30, 31]] = torch.tensor([-0.3, -0.5, -0.49])
    given[40:48] = -torch.inf
    sample.asked_for = given
    method = CDPruner((2,), guide="text-tower", opposite=True)
    assert kept(method, sample) == [[5, 30]]  # 31 is of the texture of 30
    _, stage = build(method, [sample])
    expected = torch.where(given.isinf(), 0, (0.1 - given) / 0.6)
    torch.testing.assert_close(method.relevance(stage), expected[None])
    gone = set(range(60)) - set(kept(CDPruner((53,), guide="text-tower"), sample)[0])
    assert gone == set(range(41, 48))  # 52 have patches; of those without, the first is kept
    torch.testing.assert_close(
        CDPruner((2,), guide="text-tower").relevance(stage),
        torch.where(given.isinf(), 0, (given + 0.5) / 0.6)[None],
    )


def test_published() -> None:
    method = CDPruner.published(128)
    assert method == CDPruner(128, positions="compact", guide="text-tower", opposite=True, judged_by="prompt")
    assert method.requires_text_tower and method.requires_vision
    assert not CDPruner().requires_text_tower and not CDPruner().requires_vision
    assert Compose(method, CDPruner(0.5, (3,), positions="compact")).requires_text_tower
    assert from_dict(json.loads(json.dumps(method.to_dict()))) == method == parse(str(method))


def test_an_unknown_guide_is_refused() -> None:
    with pytest.raises(SparseSightError, match=r"guide='clip': use 'language-model' or 'text-tower'"):
        CDPruner(guide="clip")  # type: ignore[arg-type]


def test_it_acts_before_the_language_model() -> None:
    assert CDPruner().stage_layers(32) == (-1,)
    assert CDPruner(128).plan(576, 32, (-1,)).entering == (128,) * 32


@pytest.mark.parametrize(
    "method",
    [
        CDPruner(0.4),
        CDPruner(0.4, layers=(-1, 9)),
        CDPruner(7),
        CDPruner(7, guide="text-tower"),
        CDPruner(0.4, guide="text-tower", opposite=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(4))
def test_any_batch(method: CDPruner, seed: int) -> None:
    check_any_batch(method, seed)


def test_overhead() -> None:
    """Relevance, then per chosen token its likeness to all and its part of the Cholesky factor."""
    sizes = StageSizes(
        index=0, tokens_in=576, keep=64, recycled=0, merged=0, text=60, keys=640, width=4096, hidden=4096
    )
    expected = (576 + 60) * 4096 + sum(576 * 4096 + step * 576 for step in range(1, 65))
    assert CDPruner().overhead(sizes) == expected
    assert CDPruner.published().overhead(sizes) == expected - (576 + 60) * 4096
