"""What a prefill gives torch to do, counted: more work in the core path shows here without a clock.

Beside its own parts a sparse prefill does exactly what a dense one does. What the parts do is recorded below for one
small model: a change that needs more has to say so by changing the record, and so has one that needs less.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from sparsesight import sparsify
from sparsesight.methods import make_method
from sparsesight.profiling.op_counter import Count, Operations
from sparsesight.profiling.sections import PARTS
from sparsesight.random_models import Shape, random_llava, repeat_prompt

SHAPE = "layers=10,hidden=64,ffn=96,text=24,heads=4"
RECORDED_WITH = "2.13"  # of torch; others may take a few operations apart in another way
# Of each part: operations, those that compute, bytes of new tensors, bytes gathered. Two prompts of 100 visual tokens,
# 24 of text; 40 tokens stay on average, in three stages, one (fastv, divprune).
LAYOUT = (49, 41, 16126, 0)
RECORD = {
    "sparsevlm+": {
        "layout": LAYOUT,
        "rest": (59, 36, 28212, 10272),
        "raters": (62, 44, 118550, 58580),
        "scoring": (314, 186, 459192, 25596),
        "selection": (33, 27, 14910, 3408),
        "gather": (82, 67, 209326, 184360),
        "masks": (39, 9, 59024, 59024),
        "cache": (3, 3, 3472, 0),
    },
    "sparsevlm": {
        "layout": LAYOUT,
        "rest": (124, 92, 49116, 24320),
        "raters": (62, 44, 118550, 58580),
        "scoring": (206, 120, 231510, 22188),
        "selection": (405, 279, 95268, 31280),
        "gather": (133, 100, 514800, 337128),
        "masks": (39, 9, 59024, 59024),
        "cache": (3, 3, 3472, 0),
    },
    "fastv": {
        "layout": LAYOUT,
        "rest": (21, 12, 12362, 4410),
        "scoring": (62, 35, 33746, 9346),
        "selection": (11, 9, 7000, 1600),
        "gather": (32, 25, 111218, 99578),
        "masks": (13, 3, 17408, 17408),
        "cache": (1, 1, 1024, 0),
    },
    "divprune": {
        "layout": LAYOUT,
        "rest": (25, 15, 18338, 4434),
        "scoring": (573, 391, 1413210, 276896),
        "selection": (11, 9, 7000, 1600),
        "gather": (32, 25, 111218, 99578),
        "masks": (13, 3, 17408, 17408),
        "cache": (1, 1, 1024, 0),
    },
}


MASKS_OF_A_STEP = (87, 48, 9718, 1190)


@lru_cache(maxsize=4)
def subject(visual: int) -> tuple[Any, dict[str, Any]]:
    return random_llava(Shape.parse(SHAPE, visual=visual), torch.float32, "cpu")


def counted(method: str | None, batch: int = 2, visual: int = 100) -> dict[str, Count]:
    """Of a prefill with a cache, by parts; None is the dense model."""
    model, prompt = subject(visual)
    prompt = repeat_prompt(prompt, batch)
    with torch.no_grad():
        if method is None:
            with Operations() as found:
                model(**prompt, use_cache=True, logits_to_keep=1)
            return found.parts
        with sparsify(model, make_method(method, retain=40)) as run, run.count_operations() as found:
            model(**prompt, use_cache=True, logits_to_keep=1)
    return found.parts


def numbers(count: Count) -> tuple[int, int, int, int]:
    return count.operations, count.kernels, count.made, count.gathered


@pytest.mark.parametrize("method", RECORD)
def test_each_part_does_what_is_recorded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsesight.ops.bounds.rough_dtype", lambda: torch.float32)  # on every processor
    found = {part: numbers(count) for part, count in counted(method).items() if part}
    assert set(found) <= set(PARTS)
    if torch.__version__.startswith(RECORDED_WITH):
        assert found == RECORD[method]
        return
    assert found.keys() == RECORD[method].keys()
    for part, expected in RECORD[method].items():
        assert all(x <= 1.1 * y for x, y in zip(found[part], expected, strict=True)), part


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", RECORD)
def test_all_else_is_what_the_dense_model_does(method: str, batch: int) -> None:
    """Operator by operator: no mask, position or copy is made in the layers that a dense run does not make."""
    dense, sparse = counted(None, batch)[""], counted(method, batch)[""]
    assert sparse.names == dense.names and sparse.kernels == dense.kernels
    assert sparse.made < 0.7 * dense.made


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "fastv"])
def test_neither_prompts_nor_tokens_are_gone_through_one_by_one(method: str) -> None:
    each = [
        {part: count.names for part, count in counted(method, *size).items() if part}
        for size in ((1, 100), (5, 100), (2, 225))
    ]
    assert each[0] == each[1] == each[2]


@pytest.mark.parametrize("padded", [False, True])
def test_decoding_does_what_the_dense_model_does(padded: bool) -> None:
    """A step over a pruned cache adds nothing; in a padded batch, masks of the three segments, not of each layer."""
    model, prompt = subject(100)
    prompt = repeat_prompt(prompt, 2)
    prompt["attention_mask"][1, :9] = 1 - padded
    mask = torch.nn.functional.pad(prompt["attention_mask"], (0, 1), value=1)
    step = {"input_ids": torch.full((2, 1), 7), "attention_mask": mask}
    with torch.no_grad():
        cache = model(**prompt, use_cache=True).past_key_values
        with Operations() as dense:
            model(**step, past_key_values=cache)
        with sparsify(model, "sparsevlm+", retain=40) as run:
            cache = model(**prompt, use_cache=True).past_key_values
            with run.count_operations() as sparse:
                model(**step, past_key_values=cache)
    ours = {part: numbers(count) for part, count in sparse.parts.items() if part}
    assert sparse.parts[""].names == dense.parts[""].names
    assert ours == ({"masks": MASKS_OF_A_STEP} if padded else {})


def test_what_is_counted() -> None:
    """By hand: a view makes nothing, a product and a gather make what they return, in-place work makes nothing new."""
    x = torch.zeros(4, 8)
    part = ["first"]
    with Operations(lambda: part[0]) as found:
        y = x.t() @ x
        part[0] = "second"
        y.view(64).add_(1)
        y.gather(1, torch.zeros(8, 2, dtype=torch.long))
    first, second = found.parts["first"], found.parts["second"]
    assert first.names == {"t": 1, "mm": 1} and numbers(first) == (2, 1, 8 * 8 * 4, 0)
    assert second.names == {"view": 1, "add_": 1, "zeros": 1, "gather": 1}
    assert numbers(second) == (4, 3, 8 * 2 * (8 + 4), 8 * 2 * 4)
    assert numbers(found.total) == (6, 4, 256 + 192, 64)
