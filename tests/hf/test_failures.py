"""Failures in every hook of ours and every part of a model: the handle goes on, the model is what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight import SparseSightError, sparsify
from sparsesight.hf.pruned_layer import PrunedLayer
from tests.hf import tiny
from tests.hf.test_installed import plain_state
from tests.hf.test_invariants import Broken, batch, fingerprint
from tests.in_turn import in_turn


def our_hooks(built: Any) -> list[tuple[str, dict[int, Any], int]]:
    """Every hook of ours: a name, the dict it is in, its key."""
    found = []
    for name, module in built.named_modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            for key, hook in getattr(module, kind).items():
                if "sparsesight" in getattr(hook, "__module__", ""):
                    found.append((f"{name} {hook.__qualname__}", getattr(module, kind), key))
    return found


class Failing:
    """A callable that fails from its ``after``-th call on."""

    def __init__(self, real: Any, error: type[BaseException], after: int = 0) -> None:
        self.real, self.error, self.left = real, error, after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.left <= 0:
            raise self.error
        self.left -= 1
        return self.real(*args, **kwargs)


def two_steps(built: Any, inputs: Any, **how: Any) -> torch.Tensor:
    """Logits of a prefill and one decoding step."""
    how |= {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return torch.stack(built.generate(**inputs, **how).logits, 1)


@pytest.mark.parametrize(
    ("error", "after"),
    in_turn([Broken, KeyboardInterrupt], [0, 1]),
    ids=["prefill", "decoding", "interrupted prefill", "interrupted decoding"],
)
def test_a_failure_in_any_hook(error: type[BaseException], after: int) -> None:
    """In each in turn; the handle goes on at once, and the model is what it was once the handle is gone."""
    built, inputs = tiny.model("llava"), batch("llava", (0, 1))
    dense = two_steps(built, inputs)
    before = fingerprint(built)
    with sparsify(built, retain=0.4) as run:
        expected = two_steps(built, inputs)
        hooks = our_hooks(built)
        assert len(hooks) > 10
        for name, place, key in hooks:
            real = place[key]
            place[key] = Failing(real, error, after)
            with pytest.raises(error):
                two_steps(built, inputs)
            place[key] = real
            assert run._hooks.generating.prompt is None, name
            assert torch.equal(two_steps(built, inputs), expected), name
            assert run._hooks.forward is None, name
    assert fingerprint(built) == before and not plain_state(built)
    assert torch.equal(two_steps(built, inputs), dense)


@pytest.mark.parametrize(
    "where",
    [
        "vision",
        "projector",
        "embeddings",
        "attention",
        "mlp",
        "head",
        "probe",
        "cache",
        "processor",
        "logits",
    ],
)
def test_a_failure_in_any_part(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model, its cache, its processor or its user's own code."""
    built, inputs, tools = tiny.model("llava"), batch("llava", (0, 1)), tiny.processor("llava")
    dense = two_steps(built, inputs)
    before = fingerprint(built)
    layer = built.get_decoder().layers[4]
    parts = {
        "vision": built.model.vision_tower,
        "projector": built.model.multi_modal_projector,
        "embeddings": built.get_decoder().embed_tokens,
        "attention": layer.self_attn,
        "mlp": layer.mlp,
        "head": built.lm_head,
    }
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        expected = two_steps(built, inputs)
        kept = run.kept
        how: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            if where in parts:
                patch.setattr(parts[where], "forward", Failing(parts[where].forward, Broken))
            elif where == "probe":
                patch.setattr(run._hooks.probes[1], "real", Failing(None, Broken))
            elif where == "cache":
                patch.setattr(PrunedLayer, "note", Failing(None, Broken))
            elif where == "processor":
                patch.setattr(type(tools), "__call__", Failing(None, Broken))
            else:
                how["logits_processor"] = [Failing(lambda ids, logits: logits, Broken, 1)]
            with pytest.raises(Broken):
                two_steps(built, tiny.inputs(tools, tiny.SAMPLES[:2]), **how)
        assert run._hooks.forward is None and run._hooks.generating.prompt is None
        # The decoder alone: whatever the failed prompt was, this one is not it, and nothing is known of it.
        embeds = torch.randn(1, inputs["input_ids"].shape[1], 64)
        with torch.no_grad(), pytest.raises(SparseSightError, match="inputs_embeds: in embeddings alone"):
            built.get_decoder()(inputs_embeds=embeds)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
        assert torch.equal(two_steps(built, inputs), expected)
    assert fingerprint(built) == before and not plain_state(built)
    assert torch.equal(two_steps(built, inputs), dense)
