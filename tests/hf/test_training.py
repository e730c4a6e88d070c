"""Training: labels, gradients, checkpointed activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from sparsesight import UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, model

HOOKS_RUN_AGAIN = "__call__" in vars(GradientCheckpointingLayer)  # older transformers


def after_pictures(built: Any, prompt: Any) -> torch.Tensor:
    """Labels on everything that is not predicted from a visual token."""
    visual = prompt["input_ids"] == built.config.image_token_id
    wanted = prompt["attention_mask"].bool() & ~visual
    wanted[:, 1:] &= ~visual[:, :-1]
    return torch.where(wanted, prompt["input_ids"], -100)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["sparsevlm", "sparsevlm+"])
def test_forward_with_labels(side: str, attention: str, method: str) -> None:
    """A plain forward returns full-length logits and a loss, whichever side the padding is on."""
    built = model("llava", attention)
    tools = tiny.processor("llava")
    tools.tokenizer.padding_side = side
    prompt = tiny.inputs(tools, tiny.SAMPLES)
    answers = after_pictures(built, prompt)
    with sparsify(built, method, retain=0.4), torch.no_grad():
        out = built(**prompt, labels=answers)
        assert out.logits.shape[:2] == prompt["input_ids"].shape and bool(out.loss.isfinite())
        short = built(**prompt, logits_to_keep=2).logits
        close(short, out.logits[:, -2:])
        for i, sample in enumerate(tiny.SAMPLES):
            alone = tiny.inputs(tools, [sample])
            text = alone["input_ids"][0] != built.config.image_token_id
            real = prompt["attention_mask"][i].bool()
            close(out.logits[i][real][text], built(**alone).logits[0][text])


def test_gradients_flow() -> None:
    built, prompt = tiny.model("llava"), batch("llava")
    answers = after_pictures(built, prompt)
    for method in ("sparsevlm", "sparsevlm+"):
        built.zero_grad()
        with sparsify(built, method, retain=0.4):
            built(**prompt, labels=answers).loss.backward()
        grads = {k: p.grad for k, p in built.named_parameters() if p.grad is not None}
        assert grads["model.multi_modal_projector.linear_2.weight"].abs().sum() > 0
        assert all(bool(g.isfinite().all()) for g in grads.values())


@pytest.mark.parametrize("method", ["sparsevlm+", "sparsevlm", "divprune"])
@pytest.mark.parametrize("labels", ["all", "text"])
def test_labels_predicted_from_dropped_tokens_are_ignored(labels: str, method: str) -> None:
    """Their loss would be that of a hidden state of zeros: the same constant whatever the weights are."""
    built, prompt = model("llava"), batch("llava")
    visual = prompt["input_ids"] == built.config.image_token_id
    given = torch.where(prompt["attention_mask"].bool(), prompt["input_ids"], -100)
    if labels == "text":
        given[visual] = -100
    before = given.clone()
    with torch.no_grad():
        dense = built(**prompt, labels=given).loss
        with sparsify(built, method, retain=0.4) as run:
            with pytest.warns(UserWarning, match=r"labels: \d+ of \d+ would be predicted") as said:
                out = built(**prompt, labels=given)
                again = built(**prompt, labels=given)
            assert len(said) == 1  # in both calls
            kept, logits = run.kept[-1], built(**prompt).logits
        assert torch.equal(given, before) and torch.equal(out.loss, again.loss)
        gone = torch.zeros_like(visual)
        for i, stay in enumerate(kept):
            places = visual[i].nonzero()[:, 0]
            gone[i, places] = True
            gone[i, places[stay]] = False
        wanted = given.clone()
        wanted[:, 1:][gone[:, :-1]] = -100
        counted, ignored = int((given != -100).sum()), int(((given != -100) & (wanted == -100)).sum())
        assert ignored and f"labels: {ignored} of {counted} " in str(said[0].message)
        close(
            out.loss, torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
        )
        close(out.logits, logits)  # labels on everything are no answer
        shifted = torch.nn.functional.pad(given[:, 1:], (0, 1), value=-100)
        with sparsify(built, method, retain=0.4), pytest.warns(UserWarning, match=f"labels: {ignored} of"):
            close(built(**prompt, labels=given, shift_labels=shifted).loss, out.loss)
        with sparsify(built, retain=1.0):  # nothing is dropped
            assert torch.equal(built(**prompt, labels=given).loss, dense)


def test_labels_of_a_language_model() -> None:
    """With a visual mask they are seen as well."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    built = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)).eval()
    ids, visual = torch.randint(5, 50, (1, 30)), torch.zeros(1, 30, dtype=torch.bool)
    visual[:, 2:20] = True
    with sparsify(built, "sparsevlm+", visual_mask=visual, retain=0.4, layers=(0, 1)) as run, torch.no_grad():
        answers = ids.clone()
        with pytest.warns(UserWarning, match=r"labels: \d+ of 30"):
            assert built(ids, labels=answers).loss.isfinite()
        answers[:, :25] = -100
        assert built(ids, labels=answers).loss.isfinite()
        assert not run.raters()[25:].any() and run.raters()[20:25].any()


def loss_and_gradients(
    built: Any, prompt: Any, answers: torch.Tensor
) -> tuple[float, dict[str, torch.Tensor]]:
    built.zero_grad()
    loss = built(**prompt, labels=answers).loss
    loss.backward()
    return loss.item(), {k: p.grad.clone() for k, p in built.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", ["sparsevlm", "sparsevlm+"])
def test_checkpointed_activations_change_nothing(method: str, attention: str) -> None:
    """Same loss and gradients with and without; the model runs dense with the same settings afterwards."""
    built, prompt = tiny.model("llava", attention).train(), batch("llava")
    answers = after_pictures(built, prompt)
    dense = loss_and_gradients(built, prompt, answers)
    with sparsify(built, method, retain=0.4) as run:
        loss, gradients = loss_and_gradients(built, prompt, answers)
        kept = run.kept
        built.gradient_checkpointing_enable()
        if HOOKS_RUN_AGAIN:
            with pytest.raises(UnsupportedModelError, match="gradient_checkpointing_disable"):
                built(**prompt)
            return
        again, checkpointed = loss_and_gradients(built, prompt, answers)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
    assert again == loss and loss != dense[0]
    assert gradients.keys() == checkpointed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4)
    again, checkpointed = loss_and_gradients(built, prompt, answers)
    assert again == dense[0]


def test_a_layer_forward_counts_once_with_checkpointed_activations() -> None:
    """Layers do run again in the backward pass; what was chosen is not chosen again."""
    if HOOKS_RUN_AGAIN:
        pytest.skip("refused here")
    built, prompt = tiny.model("llava").train(), batch("llava", (0,))
    built.gradient_checkpointing_enable()
    calls: list[int] = []
    hook = (
        built.get_decoder().layers[4].mlp.register_forward_pre_hook(lambda m, a: calls.append(a[0].shape[1]))
    )
    with sparsify(built, retain=0.4) as run:
        built(**prompt, labels=after_pictures(built, prompt)).loss.backward()
        width = run.report.kv_lengths[4]
    hook.remove()
    assert calls == [width, width]
