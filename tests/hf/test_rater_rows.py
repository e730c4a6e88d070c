"""Of long text after a picture, the queries of the raters alone are held between a stage's attention and its scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsesight import Compose, DivPrune, FastV, Method, SparseVLM, SparseVLMPlus, sparsify
from sparsesight.core.host_count import HostCount
from sparsesight.core.stage import StageInput
from sparsesight.hf.probe import CapturedAttention
from sparsesight.random_models import Shape, random_llava, repeat_prompt

TEXT, RATERS, RETAIN = 165, 3, 20  # text tokens after the picture


def first_raters(self: Any, visual: Tensor, text: Tensor, visual_mask: Tensor, text_mask: Tensor) -> Tensor:
    return text_mask & (text_mask.cumsum(1) <= RATERS)


@dataclass(frozen=True)
class Few(SparseVLM):
    select_raters = first_raters


@dataclass(frozen=True)
class FewPlus(SparseVLMPlus):
    select_raters = first_raters


@dataclass(frozen=True)
class AllText(FewPlus):
    """A method that somebody derived, and which reads more."""

    def score(self, stage: StageInput) -> Tensor:
        return super().score(stage) + 0 * stage.attention.mean_attention().sum(1)


@dataclass(frozen=True)
class Told(AllText):
    """One that says how much it reads."""

    rows_read = "raters"  # type: ignore[assignment]


def chained(*parts: Method) -> Method:
    return Compose(*parts)


METHODS: list[tuple[Method, list[int]]] = [  # with the rows of each stage's attention
    (Few(RETAIN), [RATERS] * 3),
    (FewPlus(RETAIN), [RATERS] * 3),
    (chained(DivPrune(50), FewPlus(RETAIN, layers=(1, 4))), [RATERS] * 2),
    (chained(FastV(50, layers=(0,)), Few(RETAIN, layers=(2,))), [TEXT, RATERS]),
    (AllText(RETAIN), [TEXT] * 3),
    (Told(RETAIN), [RATERS] * 3),
]


@lru_cache(maxsize=1)
def subject() -> tuple[Any, dict[str, Any]]:
    shape = "layers=6,hidden=32,ffn=48,text=200,heads=4"
    return random_llava(Shape.parse(shape, visual=64), torch.float32, "cpu")


def prefill(method: Method, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[list[int], list[Any], Any]:
    """Rows of every query that is held, and what a batch of two is left with, with its scores."""
    held: list[int] = []
    take = CapturedAttention.of

    def counted(*args: Any) -> CapturedAttention:
        seen = take(*args)
        held.append(seen.query.shape[2])
        return seen

    model, prompt = subject()
    prompt = repeat_prompt(prompt, 2)
    prompt["attention_mask"][1, -7:] = 0  # of which one has less text
    with monkeypatch.context() as patched, sparsify(model, method, **how) as run, torch.no_grad():
        patched.setattr(CapturedAttention, "of", counted)
        logits = model(**prompt).logits
        chosen = [x for sample in (0, 1) for x in run.choices(sample)]
    return held, chosen, logits


def same_choices(these: list[Any], those: list[Any]) -> None:
    for a, b in zip(these, those, strict=True):
        assert (a.kept == b.kept).all() and np.array_equal(a.score, b.score, equal_nan=True)


@pytest.mark.parametrize(("method", "rows"), METHODS, ids=lambda x: str(x) if isinstance(x, Method) else "")
def test_rows_that_are_held(method: Method, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    held, chosen, logits = prefill(method, monkeypatch)
    assert held == rows
    every, as_before, same = prefill(method, monkeypatch, trace=True)
    assert set(every) == {TEXT}, "a trace shows all text"
    assert torch.equal(logits, same)
    same_choices(chosen, as_before)


@pytest.mark.parametrize("read", [None, 128, 256])
def test_a_count_that_comes_from_a_device(read: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is in time or not, in whole chunks: the same scores to the bit."""
    found = []
    for arrived in (None, read):
        with monkeypatch.context() as patched:
            patched.setattr(HostCount, "read", lambda self, arrived=arrived: arrived)
            found.append(prefill(FewPlus(RETAIN), patched))
    expected, (held, chosen, logits) = found
    assert held == [min(read or TEXT, TEXT)] * 3 and torch.equal(logits, expected[2])
    same_choices(chosen, expected[1])
