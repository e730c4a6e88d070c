"""torch.compile: graphs are cut at the hooks; what is computed is the same, whenever the model was compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import sparsify
from tests.hf import tiny
from tests.hf.test_invariants import batch

HOW: dict[str, Any] = {
    "max_new_tokens": 4,
    "do_sample": False,
    "output_logits": True,
    "return_dict_in_generate": True,
}


@pytest.fixture(autouse=True)
def no_code_from_before() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def small() -> Any:
    return tiny.model("llava", num_hidden_layers=3)


def logits(built: Any, which: int) -> torch.Tensor:
    return torch.stack(built.generate(**batch("llava", (which,)), **HOW).logits, 1)


def compiled(built: Any, what: str) -> Any:
    """``backend="eager"``: traced and guarded as ever, and run by PyTorch, so that results are equal bit for bit."""
    if what == "layers":
        for layer in built.get_decoder().layers:
            layer.compile(backend="eager")
    elif what == "model":
        built.compile(backend="eager")
    else:
        built.forward = torch.compile(built.forward, backend="eager")
    return built


def check(what: str, when: str) -> None:
    plain = small()
    dense = [logits(plain, i) for i in (0, 1)]
    with sparsify(plain, retain=0.6, layers=(0, 1)):
        expected = [logits(plain, i) for i in (0, 1)]
    built = small()
    if when == "run before":
        assert torch.equal(logits(compiled(built, what), 0), dense[0])
    with sparsify(built, retain=0.6, layers=(0, 1)):
        if when == "inside":
            compiled(built, what)
        for i in (0, 1, 0):
            assert torch.equal(logits(built, i), expected[i]) and not torch.equal(expected[i], dense[i])
    assert torch.equal(logits(built, 0), dense[0])


def test_compiled_layers_that_ran_before() -> None:
    check("layers", "run before")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["layers", "forward", "model"])
@pytest.mark.parametrize("when", ["run before", "inside"])
def test_compiled(what: str, when: str) -> None:
    check(what, when)
