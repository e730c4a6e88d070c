"""Coverage and frames: what is chosen by plain loops, ties, padding, batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import ops

from .test_diversity import alone, normal, order, picture


def greedy(cover: np.ndarray, weight: np.ndarray, keep: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(keep):
        covered = cover[:, chosen].max(1) if chosen else np.zeros(len(cover))
        gain = weight * np.maximum(cover - covered[:, None], 0).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.astype(np.float32).argmax()))
    return chosen


def by_cosine(x: Tensor, valid: Tensor, keep: Tensor) -> Tensor:
    weight = x[..., 0].abs().nan_to_num()
    return ops.coverage_ranks(ops.cosine_coverage(x, valid), weight, valid, keep, int(keep.max()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [1, 5, 40])
def test_coverage_is_the_definition(seed: int, keep: int) -> None:
    x = normal(seed, 1, 40, 12)
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1).numpy()
    expected = greedy(np.maximum(unit @ unit.T, 0), x[0, :, 0].abs().double().numpy(), keep)
    assert order(by_cosine(x, alone(x), torch.tensor([keep])), keep) == expected


def test_softmax_coverage_by_hand() -> None:
    """Cosines 1, 0, -1 at temperature 1, two targets: shares are halves of e**cos over their sum."""
    x = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [7.0, 7.0]]])
    valid = torch.tensor([[True, True, True, False]])
    target, real = torch.tensor([[[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]]]), torch.tensor([[True, True, False]])
    found = ops.softmax_coverage(target, x, real, valid, 1.0)[0]
    total = math.e + 1 + 1 / math.e
    torch.testing.assert_close(found[0], torch.tensor([math.e, 1, 1 / math.e, 0]) / total / 2)
    torch.testing.assert_close(found[1], torch.tensor([1, math.e, 1, 0]) / (2 + math.e) / 2)
    assert not found[2].any()


@pytest.mark.parametrize("block", [1, 3, 128])
def test_blocks_and_batches_choose_what_single_steps_choose(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat([picture(10 * i, 60, 8) for i in range(4)])
    valid = torch.arange(60) >= torch.tensor([[0], [13], [43], [59]])
    x[~valid] = math.nan
    keep = torch.tensor([60, 20, 9, 1])
    with monkeypatch.context() as patch:
        patch.setattr(ops.coverage, "reads_are_free", lambda x: False)
        plain = by_cosine(x, valid, keep)
    monkeypatch.setattr(ops.greedy.Objective, "block", block)
    found = by_cosine(x, valid, keep)
    for i, real in enumerate(valid):
        count = int(keep[i])
        single = by_cosine(x[i : i + 1, real], valid[i : i + 1, real], keep[i : i + 1])[0]
        assert found[i, real].tolist() == single.tolist()
        chosen = [p[i, real].argsort()[:count].tolist() for p in (found, plain)]
        assert chosen[0] == chosen[1]


# -- frames ---------------------------------------------------------------------------------------------------------


def by_frame(hidden: np.ndarray, frame: np.ndarray, keep: int, temperature: float) -> list[int]:
    """VidCom2's rule in plain loops."""
    steady = np.argsort(hidden.var(0), kind="stable")[: hidden.shape[1] // 2]
    unit = hidden[:, steady] / np.linalg.norm(hidden[:, steady], axis=1, keepdims=True)

    def like(centre: np.ndarray, rows: np.ndarray) -> np.ndarray:
        squared = ((unit[rows] - centre) ** 2).sum(1)
        return sum(np.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))  # type: ignore[return-value]

    every, frames = np.arange(len(hidden)), sorted(set(frame.tolist()))
    rows = {f: every[frame == f] for f in frames}
    score = -like(unit.mean(0), every)
    unlike = np.array([score[rows[f]].mean() for f in frames])
    share = np.exp((unlike - unlike.max()) / temperature)
    weight = 1 + share / share.sum() - 1 / len(frames)
    for f in frames:
        score[rows[f]] -= like(unit[rows[f]].mean(0), rows[f])
    due = []
    for f, w in zip(frames, weight, strict=True):
        best = rows[f][np.argsort(-score[rows[f]], kind="stable")]
        due += [((r + 0.5) / np.float32(len(best) * np.float32(w)), i) for r, i in enumerate(best.tolist())]
    return sorted(i for _, i in sorted(due)[:keep])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_frames_by_plain_loops(seed: int, temperature: float) -> None:
    sizes, keep = [48, 31, 5], [12, 10, 2]
    samples = [normal(seed * 10 + i, n, 10) + 1 for i, n in enumerate(sizes)]
    frames = [(torch.arange(n) * 5 // n + torch.arange(n) // 7) * 3 + 2 for n in sizes]
    x, valid = torch.full((3, 48, 10), math.nan), torch.zeros(3, 48, dtype=torch.bool)
    frame = torch.zeros(3, 48, dtype=torch.long)
    for i, n in enumerate(sizes):
        x[i, 48 - n :], valid[i, 48 - n :], frame[i, 48 - n :] = samples[i], True, frames[i]
    place = ops.unlike_mean_ranks(x, frame, valid, temperature)
    for i, n in enumerate(sizes):
        found = (place[i, 48 - n :] < keep[i]).nonzero()[:, 0].tolist()
        assert found == by_frame(samples[i].double().numpy(), frames[i].numpy(), keep[i], temperature)


def test_a_frame_of_its_own_gets_more() -> None:
    """Four frames of sixteen, one of which shows something else: it gets more than its quarter."""
    x = normal(0, 1, 64, 16) * 0.1 + torch.ones(16)
    x[0, 32:48] *= -1
    place = ops.unlike_mean_ranks(x, (torch.arange(64) // 16)[None], alone(x), 0.01)
    counts = (place[0] < 24).view(4, 16).sum(1).tolist()
    assert counts[2] > 8 and max(counts[:2] + counts[3:]) < 6 and sum(counts) == 24
