"""torch.compile: graphs are cut at the hooks; what is computed is the same, whenever the model was compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sparsesight import METHODS, sparsify
from tests.hf import tiny
from tests.hf.test_invariants import batch
from tests.hf.test_sparsify import small_llama

HOW: dict[str, Any] = {
    "max_new_tokens": 3,
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
    with sparsify(plain, "sparsevlm+", retain=0.6, layers=(0, 1)):
        expected = [logits(plain, i) for i in (0, 1)]
    built = small()
    if when == "run before":
        assert torch.equal(logits(compiled(built, what), 0), dense[0])
    with sparsify(built, "sparsevlm+", retain=0.6, layers=(0, 1)):
        if when == "inside":
            compiled(built, what)
        for i in (0, 1, 0):
            assert torch.equal(logits(built, i), expected[i]) and not torch.equal(expected[i], dense[i])
    assert torch.equal(logits(built, 0), dense[0])


def cases(whats: Sequence[str], *often: tuple[str, str]) -> list[Any]:
    """Each takes up to ten seconds."""
    every = [(what, when) for what in whats for when in ("run before", "inside")]
    return [pytest.param(*x, marks=() if x in often else pytest.mark.slow) for x in every]


@pytest.mark.parametrize(("what", "when"), cases(("layers", "forward", "model")))
def test_compiled(what: str, when: str) -> None:
    check(what, when)


# -- a model that was compiled whole, and has run dense -----------------------------------------------------------

EMBEDS = torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(1))
VISUAL = torch.zeros(30, dtype=torch.bool)
VISUAL[2:22] = True


def llama() -> Any:
    return small_llama(num_hidden_layers=3, initializer_range=0.3)


def llama_logits(call: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = call(inputs_embeds=EMBEDS, use_cache=False).logits
    return out


def compile_in(way: str, built: Any) -> Any:
    """What is to be called then."""
    how: dict[str, Any] = {"backend": "eager"}
    if way in ("wrapper", "wrapper is given"):
        return torch.compile(built, **how)
    if way == "function":
        return torch.compile(lambda **kwargs: built(**kwargs), **how)
    parts = {"decoder": [built.model], "layers": [*built.model.layers], "regions": [*built.model.layers[:2]]}
    for part in parts.get(way.removesuffix(" forward"), [built]):
        if way.endswith("forward"):
            part.forward = torch.compile(part.forward, **how)
        else:
            part.compile(**how)
    return built


BEFORE, AFTER = (
    {"method": "divprune", "retain": 0.4},
    {"method": "sparsevlm+", "retain": 0.6, "layers": (0, 1)},
)
WAYS = (
    *("model", "model forward", "wrapper", "wrapper is given", "function"),
    *("decoder", "decoder forward", "layers", "layers forward", "regions"),
)


@pytest.mark.parametrize(("way", "when"), cases(WAYS, ("decoder", "run before")))
def test_compiled_whole(way: str, when: str) -> None:
    """Sparse inside, by a method that acts before the decoder and one that does not; dense behind each."""
    plain, built = llama(), llama()
    dense, call, call_before = llama_logits(plain), built, when == "run before"
    if call_before:
        call = compile_in(way, built)
        assert torch.equal(llama_logits(call), dense)
    order = (BEFORE, AFTER) if WAYS.index(way) % 2 else (AFTER, BEFORE)
    for number, how in enumerate((order[0], order[1], order[0])):
        with sparsify(plain, visual_mask=VISUAL, **how):
            expected = llama_logits(plain)
        assert not torch.allclose(expected, dense, atol=1e-3)
        given = call if way == "wrapper is given" else built
        with sparsify(given, visual_mask=VISUAL, **how) as run:
            if not call_before and not number:
                call = compile_in(way, built)
            assert torch.allclose(llama_logits(call), expected, atol=1e-5) and run.kept
        assert torch.allclose(llama_logits(call), dense, atol=1e-5)


@pytest.mark.slow
def test_every_method_on_a_compiled_model() -> None:
    """One after the other on the same model, more of them than a compiler keeps versions of."""
    plain, built = llama(), llama()
    built.model.compile(backend="eager")
    dense, tried = llama_logits(plain), 0
    assert torch.equal(llama_logits(built), dense)
    for name, method in METHODS.items():
        if method.requires_vision or method.requires_text_tower:
            continue
        with sparsify(plain, name, retain=0.6, visual_mask=VISUAL):
            expected = llama_logits(plain)
        with sparsify(built, name, retain=0.6, visual_mask=VISUAL) as run:
            assert torch.allclose(llama_logits(built), expected, atol=1e-5) and run.kept, name
        assert torch.allclose(llama_logits(built), dense, atol=1e-5), name
        tried += 1
    assert tried > 8


@pytest.mark.slow
def test_two_models_that_share_what_was_compiled() -> None:
    """One sparse, one not: compiled code is kept per class, and told apart by what each has of its own."""
    one, other, plain = (llama() for _ in range(3))
    dense = llama_logits(plain)
    for built in (one, other):
        built.compile(backend="eager")
        assert torch.equal(llama_logits(built), dense)
    with sparsify(plain, visual_mask=VISUAL, **BEFORE):
        expected = llama_logits(plain)
    with sparsify(one, visual_mask=VISUAL, **BEFORE):
        for _ in range(2):
            assert torch.allclose(llama_logits(one), expected, atol=1e-5)
            assert torch.equal(llama_logits(other), dense)
        with sparsify(other, visual_mask=VISUAL, **BEFORE) as second:
            assert torch.allclose(llama_logits(other), expected, atol=1e-5) and second.kept
            assert torch.allclose(llama_logits(one), expected, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_whose_vision_tower_is_read() -> None:
    plain, built = small(), small()
    dense = logits(plain, 0)
    built.compile(backend="eager")
    assert torch.equal(logits(built, 0), dense)
    with sparsify(plain, "fastervlm", retain=0.4):
        expected = logits(plain, 0)
    for _ in range(2):
        with sparsify(built, "fastervlm", retain=0.4):
            assert torch.equal(logits(built, 0), expected)
        assert torch.equal(logits(built, 0), dense)
