"""Modules that PEFT trains as copies (``modules_to_save``): the copy that is active is the one that is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sparsesight import sparsify
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, generate
from tests.in_turn import in_turn

peft = pytest.importorskip("peft")


def add_copies(built: Any, name: str, seed: int) -> Any:
    """An adapter whose attention, in decoder and vision tower, and projector are copies with other weights."""
    config = peft.LoraConfig(
        r=2,
        target_modules=r".*language_model.*\.down_proj",
        modules_to_save=["self_attn", "multi_modal_projector"],
    )
    if isinstance(built, peft.PeftModel):
        built.add_adapter(name, config)
    else:
        built = peft.get_peft_model(built, config, adapter_name=name)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in built.named_parameters():
            if f"modules_to_save.{name}." in key:
                weight.add_(torch.randn_like(weight) * 0.1)
    return built.eval()


def plain(adapted: Any, name: str) -> Any:
    """A model without wrappers that computes what this adapter does."""
    copied = copy.deepcopy(adapted)
    copied.set_adapter(name)
    return copied.merge_and_unload().eval()


@pytest.mark.parametrize(("method", "when"), in_turn(["sparsevlm+", "fastervlm"], ["before", "after"]))
def test_the_active_copy_is_followed(when: str, method: str) -> None:
    """Switched, disabled and added while sparsified."""
    prompt, how = (
        batch("llava", (0, 1)),
        {"retain": 0.4, "layers": (-1,) if method == "fastervlm" else (0, 1)},
    )

    def sparse(built: Any) -> tuple[torch.Tensor, Any]:
        with sparsify(built, method, **how) as run:
            return generate(built, prompt)[1], run.kept

    def check(adapted: Any, run: Any, wanted: tuple[torch.Tensor, Any]) -> None:
        close(generate(adapted, prompt)[1], wanted[0])
        for stage, other in zip(run.kept, wanted[1], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))

    reference = add_copies(add_copies(tiny.model("llava", num_hidden_layers=3), "a", 1), "b", 2)
    reference.generation_config.eos_token_id = None
    wanted = {name: sparse(plain(reference, name)) for name in ("a", "b")}
    wanted["none"] = sparse(tiny.model("llava", num_hidden_layers=3))
    assert not torch.allclose(wanted["a"][0], wanted["b"][0], atol=1e-2)
    built = tiny.model("llava", num_hidden_layers=3)
    adapted = add_copies(built, "a", 1) if when == "before" else None
    with sparsify(built if adapted is None else adapted, method, **how) as run:
        adapted = add_copies(built, "a", 1) if adapted is None else adapted
        adapted.generation_config.eos_token_id = None
        check(adapted, run, wanted["a"])
        adapted = add_copies(adapted, "b", 2)
        for name in ("b", "a", "b"):
            adapted.set_adapter(name)
            check(adapted, run, wanted[name])
            with adapted.disable_adapter():
                check(adapted, run, wanted["none"])
    dense = generate(plain(adapted, "b"), prompt)[1]
    close(generate(adapted, prompt)[1], dense)
