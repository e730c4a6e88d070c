"""Methods that read the vision tower leave the model as it was, whatever happens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sparsesight import (
    Random,
    UnsupportedModelError,
    sparsify,
)
from sparsesight.core.budget import BEFORE
from tests.hf import tiny
from tests.hf.families import ALL
from tests.hf.families.base import CLIPS
from tests.hf.test_invariants import batch, generate, model
from tests.hf.vision.class_token import METHOD, best, left


@pytest.mark.parametrize("at", ["tower", "projector", "first layer", "last layer"])
@pytest.mark.parametrize("way", ["forward", "generate"])
def test_an_exception_leaves_nothing_behind(at: str, way: str) -> None:
    built, prompt = tiny.model("llava"), batch("llava")
    where = {
        "tower": built.model.vision_tower.encoder.layers[-1],
        "projector": built.model.multi_modal_projector.linear_1,
        "first layer": built.get_decoder().layers[0],
        "last layer": built.get_decoder().layers[-1],
    }[at]

    def fail(*args: Any) -> None:
        raise RuntimeError("interrupted")

    with sparsify(built, METHOD) as run, torch.no_grad():
        handle = where.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            built(**prompt) if way == "forward" else built.generate(**prompt, max_new_tokens=2)
        assert not left(run) and run._hooks.vision.local.running is None
        handle.remove()
        built(**prompt)
        kept = run.kept[0]
    assert [k.tolist() for k in kept] == best(built, prompt, [len(k) for k in kept])


def plain(built: Any) -> dict[str, dict[str, Any]]:
    """All that modules have of their own, hooks included."""
    return {
        name: {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()}
        for name, module in built.named_modules()
    }


def same(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, dict) and isinstance(y, dict):
            return x.keys() == y.keys() and all(x[k] is y[k] for k in x)
        return x is y

    return a.keys() == b.keys() and all(
        a[n].keys() == b[n].keys() and all(equal(a[n][k], b[n][k]) for k in a[n]) for n in a
    )


def test_the_model_comes_back_and_others_get_nothing() -> None:
    built, prompt = tiny.model("llava"), batch("llava")
    generate(built, prompt)  # transformers puts hooks of its own on the tower, once
    before = plain(built)
    tower = {n for n in before if "vision_tower" in n or "projector" in n}
    with sparsify(built, METHOD):
        assert not same({n: before[n] for n in tower}, {n: v for n, v in plain(built).items() if n in tower})
        generate(built, prompt)
        copied = plain(copy.deepcopy(built))
    assert same(before, plain(built))
    for name, own in before.items():
        assert own.keys() == copied[name].keys()
        assert all(own[k].keys() == copied[name][k].keys() for k in own if k.startswith("_forward"))
    with sparsify(built, Random(0.4, (BEFORE,))):
        now = plain(built)
        assert same({n: before[n] for n in tower}, {n: now[n] for n in tower})


def named(name: str) -> Any:
    (family,) = (x for x in ALL if x.name == name)
    if family.missing:
        pytest.skip(family.missing)
    return family


def test_a_model_without_a_tower_is_refused_and_left_alone() -> None:
    built = named("fuyu").build("sdpa")
    before = plain(built)
    with pytest.raises(
        UnsupportedModelError, match=r"class-token\(retain=0.4\) ranks visual tokens by .* none"
    ):
        sparsify(built, METHOD)
    assert same(before, plain(built))
    sparsify(built, "sparsevlm+", retain=0.4).restore()
    text = model("llava").get_decoder()
    with pytest.raises(UnsupportedModelError, match="has none with attention that can be read"):
        sparsify(text, METHOD, visual_mask="per call")


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_tokens_that_cannot_be_traced_are_refused_before_the_language_model(way: str) -> None:
    family = named("llava_onevision")
    built, prompt = family.build("sdpa"), family.prompts(CLIPS)
    ran: list[int] = []
    built.get_decoder().layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with sparsify(built, METHOD) as run, torch.no_grad():
        with pytest.raises(
            UnsupportedModelError, match=r"class-token\(retain=0.4\): of 32 of the 70 visual tokens"
        ):
            built(**prompt) if way == "forward" else built.generate(**prompt, max_new_tokens=2)
        assert not ran and not left(run)
