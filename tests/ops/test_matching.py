"""Merging and thinning by likeness: against plain loops, by hand, padded and alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import ops
from tests.methods.stages import normal


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def padded(samples: list[Tensor], fill: float = math.nan) -> Tensor:
    width = max(len(x) for x in samples)
    return torch.stack([torch.cat((x, x.new_full((width - len(x), x.shape[1]), fill))) for x in samples])


# -- VisionZip's merging -----------------------------------------------------------------------------------------


def even_targets(x: Tensor, key: Tensor, clusters: int, add: bool) -> tuple[Tensor, list[int], list[int]]:
    """Section 3.3, in loops."""
    targets = [j * (len(x) // clusters) for j in range(clusters)]
    assign = []
    for i in range(len(x)):
        alike = [cosine(key[i], key[t]) for t in targets]
        assign.append(targets.index(i) if i in targets else max(range(clusters), key=lambda j: alike[j]))
    tokens = []
    for j, t in enumerate(targets):
        joined = [x[i] for i in range(len(x)) if assign[i] == j and i != t]
        if add:
            tokens.append(x[t] + (torch.stack(joined).mean(0) if joined else 0))
        else:
            tokens.append(torch.stack([x[t], *joined]).mean(0))
    return torch.stack(tokens), targets, assign


@pytest.mark.parametrize("add", [False, True])
def test_even_targets_as_in_loops_also_in_a_batch(add: bool) -> None:
    sizes, clusters = (23, 40, 9, 7), (4, 7, 9, 1)
    x = [normal(i, n, 6) for i, n in enumerate(sizes)]
    key = [normal(10 + i, n, 5) for i, n in enumerate(sizes)]
    together = ops.even_target_merge(padded(x), padded(key), sizes, clusters, add)
    for i, (n, q) in enumerate(zip(sizes, clusters, strict=True)):
        tokens, targets, assign = even_targets(x[i], key[i], q, add)
        alone = ops.even_target_merge(x[i][None], key[i][None], (n,), (q,), add)
        for made, row in ((together, i), (alone, 0)):
            assert made.exists[row].sum() == q
            assert made.centre[row, :q].tolist() == targets
            assert made.assign[row, :n].tolist() == assign
            torch.testing.assert_close(made.tokens[row, :q], tokens)


def test_even_targets_by_hand() -> None:
    """Six tokens, two targets (0 and 3): keys point which way each goes, features tell the mean."""
    key = torch.tensor([[1.0, 0], [0.1, 1], [2, 0.1], [0, 3], [1, 0.9], [0, 0]])[None]
    x = torch.tensor([[0.0], [10], [2], [20], [7], [100]])[None]
    made = ops.even_target_merge(x, key, (6,), (2,))
    assert made.assign.tolist() == [[0, 1, 0, 1, 0, 0]]  # a key of zeros is like nothing: the first
    assert made.tokens.flatten().tolist() == [(0 + 2 + 7 + 100) / 4, 15.0]
    made = ops.even_target_merge(x, key, (6,), (2,), add=True)
    torch.testing.assert_close(made.tokens.flatten(), torch.tensor([109 / 3, 30.0]))


def test_a_target_without_a_patch_draws_nobody_who_is_like_another() -> None:
    """Cosine with zeros is 0, so that a likeness of 0.2 is still the better one."""
    key = torch.tensor([[0.0, 0], [0.2, 0.98], [1, 0], [-1, 0]])[None]
    made = ops.even_target_merge(key, key, (4,), (2,))  # targets 0 and 2
    assert made.assign.tolist() == [[0, 1, 1, 0]]


# -- ToMe --------------------------------------------------------------------------------------------------------


def soft_matching(x: Tensor, target: int) -> list[list[int]]:
    """Section 3 of the paper in loops: who ends up together, by where each group stands."""
    left: list[list[int]] = [[i] for i in range(len(x))]
    heads = list(range(len(x)))
    while len(left) > target:
        r = min(len(left) - target, len(left) // 2)
        mean = [x[group].double().mean(0) for group in left]
        a, b = range(0, len(left), 2), range(1, len(left), 2)
        edges = []
        for i in a:
            alike = [cosine(mean[i], mean[j]) for j in b]
            edges.append((max(alike), i, b[int(np.argmax(alike))]))
        gone = sorted(edges, key=lambda e: -e[0])[:r]
        for _, i, j in gone:
            left[j] = left[j] + left[i]
        keep = [i for i in range(len(left)) if i not in {i for _, i, _ in gone}]
        left, heads = [left[i] for i in keep], [heads[i] for i in keep]
    return [sorted(group) for group in left]


def test_soft_matching_as_in_loops_also_in_a_batch() -> None:
    sizes, clusters = (31, 64, 10, 5, 12), (8, 5, 9, 5, 1)
    x = [normal(i, n, 6) for i, n in enumerate(sizes)]
    together = ops.bipartite_merge(padded(x), sizes, clusters)
    for i, (n, q) in enumerate(zip(sizes, clusters, strict=True)):
        groups = soft_matching(x[i], q)
        alone = ops.bipartite_merge(x[i][None], (n,), (q,))
        for made, row in ((together, i), (alone, 0)):
            assert made.exists[row].sum() == q
            centre, assign = made.centre[row, :q].tolist(), made.assign[row, :n].tolist()
            assert centre == sorted(set(centre)) and [assign[c] for c in centre] == list(range(q))
            assert [[t for t in range(n) if assign[t] == j] for j in range(q)] == groups
            means = torch.stack([x[i][g].mean(0) for g in groups])
            torch.testing.assert_close(made.tokens[row, :q], means)


def test_soft_matching_by_hand() -> None:
    """A = 0, 2, 4 and B = 1, 3, 5; token 2 is 3's twin, token 4 nearly 1's, token 0 is alone."""
    x = torch.tensor([[-1.0, 0], [0, 1], [1, 0], [2, 0], [0.1, 1], [1, -1]])[None]
    made = ops.bipartite_merge(x, (6,), (4,))
    assert made.assign.tolist() == [[0, 1, 2, 2, 1, 3]]
    assert made.centre.tolist() == [[0, 1, 3, 5]]  # where the members of B stood
    torch.testing.assert_close(made.tokens[0, 2], torch.tensor([1.5, 0.0]))
    assert torch.equal(made.tokens[0, 0], x[0, 0])


def test_a_merged_token_weighs_as_many_as_it_is() -> None:
    """Eight down to one: the mean of all, however the rounds went."""
    x = normal(0, 1, 8, 4)
    made = ops.bipartite_merge(x, (8,), (1,))
    torch.testing.assert_close(made.tokens[0, 0], x[0].mean(0))


def test_equal_tokens_merge_the_earlier_first() -> None:
    x = torch.ones(1, 8, 3)
    made = ops.bipartite_merge(x, (8,), (6,))
    assert made.assign.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]]  # 0 and 2 go, both into the first of B
    assert made.centre.tolist() == [[1, 3, 4, 5, 6, 7]]


def test_merging_passes_gradients() -> None:
    for merge in (
        lambda x: ops.bipartite_merge(x, (6,), (2,)),
        lambda x: ops.even_target_merge(x, x, (6,), (2,)),
        lambda x: ops.grid_pool(x, torch.zeros(1, 6, dtype=torch.long), (6,), (2,)),
    ):
        x = normal(0, 1, 6, 3).requires_grad_()
        merge(x).tokens.sum().backward()
        assert x.grad is not None and (x.grad > 0).all()


# -- VisPruner ---------------------------------------------------------------------------------------------------


def thinned(x: Tensor, attention: Tensor, keep: int, held: int, step: int) -> list[int]:
    """Section 4.2 in loops: the chosen, best first."""
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    alike = (unit @ unit.T).tolist()
    order = sorted(range(len(x)), key=lambda i: -float(attention[i]))
    chosen, left = order[:held], order[held:]
    while (r := min(step, len(left) - (keep - held), len(left) // 2)) > 0:
        a, b = left[0::2], left[1::2]
        top = sorted(((max(alike[i][j] for j in b), -n, i) for n, i in enumerate(a)), reverse=True)
        left = [i for _, _, i in top[r:]] + b
    return chosen + left


@pytest.mark.parametrize("step", [1, 3, 8])
def test_thinning_as_in_loops_also_in_a_batch(step: int) -> None:
    sizes, keep, held = (41, 17, 60, 5), (12, 9, 7, 5), (6, 2, 0, 2)
    x = [normal(i, n, 4) for i, n in enumerate(sizes)]
    attention = [normal(20 + i, n) for i, n in enumerate(sizes)]
    width = max(sizes)

    def places(rows: list[int]) -> Tensor:
        wide = max(sizes[i] for i in rows)
        valid = torch.stack([torch.arange(wide) < sizes[i] for i in rows])
        score = torch.stack([torch.nn.functional.pad(attention[i], (0, wide - sizes[i])) for i in rows])
        features = torch.stack([torch.cat((x[i], torch.full((wide - sizes[i], 4), math.nan))) for i in rows])
        counts = (torch.tensor([y[i] for i in rows]) for y in (held, keep))
        return ops.thinned_places(
            features, ops.ranks(score, valid), valid, *counts, torch.full((len(rows),), step), width
        )

    together = places([0, 1, 2, 3])
    for i, n in enumerate(sizes):
        own = together[i, :n]
        assert sorted(own.tolist()) == list(range(n))
        assert own.argsort()[: keep[i]].tolist() == thinned(x[i], attention[i], keep[i], held[i], step)
        assert torch.equal(own, places([i])[0])


def test_more_rounds_than_needed_change_nothing() -> None:
    x, valid = normal(0, 1, 20, 4), torch.ones(1, 20, dtype=torch.bool)
    given = ops.ranks(normal(1, 1, 20), valid), valid, torch.tensor([3]), torch.tensor([8]), torch.tensor([2])
    assert torch.equal(ops.thinned_places(x, *given, 6), ops.thinned_places(x, *given, 50))


def test_duplicates_go() -> None:
    """Of three equal pairs and four single tokens the singles and one of each pair stay."""
    base = torch.eye(7)[:, :]
    x = torch.cat((base, base[:3]))[[0, 7, 1, 8, 2, 9, 3, 4, 5, 6]][None]
    valid = torch.ones(1, 10, dtype=torch.bool)
    place = ops.thinned_places(
        x, torch.arange(10)[None], valid, torch.tensor([0]), torch.tensor([7]), torch.tensor([1]), 3
    )
    kept = (place < 7)[0].nonzero()[:, 0].tolist()
    assert x[0, kept].sum(0).tolist() == [1.0] * 7


# -- HoloV -------------------------------------------------------------------------------------------------------


def test_variance_of_likeness() -> None:
    x = normal(0, 2, 6, 3)
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 4:] = False
    x[1, 4:] = math.nan
    made = ops.likeness_variance(x, valid)
    for row, n in ((0, 6), (1, 4)):
        for i in range(n):
            others = np.array([cosine(x[row, i], x[row, j]) for j in range(n) if j != i])
            assert made[row, i].item() == pytest.approx(others.var(), rel=1e-4, abs=1e-6)
    assert ops.likeness_variance(x[:1, :1], valid[:1, :1]).item() == 0
