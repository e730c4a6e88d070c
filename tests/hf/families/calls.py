"""More that is tried with every family: plain forwards with labels, prompts of embeddings, router logits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from sparsesight import SparseSightError, prompt_ends
from sparsesight.hf.model_parts import inspect_model
from sparsesight.hf.router_logits import router_layers

from .case import INSIDE, Case

ANSWER = 2  # tokens at the end of the prompt that pass for an answer


def answers(case: Case, attention: str) -> None:
    """What is said to be an answer judges nothing, and labels are ignored where nothing predicts them."""
    model: Any = case.models[attention]
    prompt = case.prompt(0)
    ids = prompt["input_ids"]
    if "paligemma" in case.family.name:  # all but an answer see each other
        prompt["token_type_ids"] = prompt["token_type_ids"].clone()
        prompt["token_type_ids"][:, -ANSWER:] = 1
    other = {**prompt, "input_ids": torch.cat((ids[:, :-ANSWER], ids[:, -5 : -5 + ANSWER]), 1)}
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    with case.sparse(attention, case.turn(*INSIDE)) as run, torch.no_grad():
        assert model(**prompt, labels=labels).loss.isfinite()
        kept, layers = [stage[0] for stage in run.kept], run.layers
        assert kept and not run.raters()[-ANSWER:].any()
        model(**other, labels=torch.where(labels == -100, labels, other["input_ids"]))
        assert all(torch.equal(a, b[0]) for a, b in zip(kept, run.kept, strict=True))
        with prompt_ends(model, -ANSWER):
            model(**other)
        assert all(torch.equal(a, b[0]) for a, b in zip(kept, run.kept, strict=True))

        with warnings.catch_warnings(record=True) as said, prompt_ends(model, -ANSWER):
            warnings.simplefilter("always")
            loss = model(**prompt, labels=ids).loss
            wanted = ids.clone()
            gone = _gone(case, ids, kept[-1:], layers[-1:])[-1]
            wanted[:, 1:][gone[:, :-1]] = -100
            ignored = int((wanted == -100).sum())
            case.close(model(**prompt, labels=wanted).loss, loss, "loss")
        messages = [str(w.message) for w in said if "would be predicted" in str(w.message)]
        assert len(messages) == (ignored > 0)
        assert not messages or messages[0].startswith(f"labels: {ignored} of {ids.shape[1]} ")

        decoder: Any = inspect_model(model).decoder
        with pytest.raises(SparseSightError, match="visual_tokens"):
            decoder(inputs_embeds=torch.randn(1, 5, decoder.config.hidden_size))


def routers(case: Case, attention: str) -> None:
    """Router logits are by a token's place, and the auxiliary loss is over the rows that ran."""
    model: Any = case.models[attention]
    decoder: Any = inspect_model(model).decoder
    layers = router_layers(decoder)
    if not layers:
        return
    prompt = case.prompt(0, 1)
    ids, mask = prompt["input_ids"], prompt["attention_mask"]
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    with case.sparse(attention) as run, torch.no_grad():
        plain = model(**prompt, labels=labels, output_router_logits=True)
        kept, stages = run.kept, run.layers
        without = model(**prompt, labels=labels)
    if plain.get("router_logits") is None:  # it keeps them to itself
        assert plain.get("aux_loss") is None
        return
    gone = _gone(case, ids, kept, stages)
    ran = [mask.bool() & ~gone[sum(stage < layer for stage in stages)] for layer in layers]
    experts = plain.router_logits[0].shape[-1]
    assert [x.shape for x in plain.router_logits] == [(ids.numel(), experts)] * len(layers)
    for logits, rows in zip(plain.router_logits, ran, strict=True):
        assert logits[rows.flatten()].any(1).all() and not logits[(mask.bool() & ~rows).flatten()].any()
    assert not ran[-1].equal(mask.bool()), "nothing was dropped"
    if plain.get("aux_loss") is None:
        return
    config = decoder.config
    top = next(getattr(config, k) for k in ("num_experts_per_tok", "moe_k") if hasattr(config, k))
    packed = torch.cat([x[rows.flatten()] for x, rows in zip(plain.router_logits, ran, strict=True)])
    case.close(plain.aux_loss, load_balancing_loss_func((packed,), experts, top), "auxiliary loss")
    case.close(plain.loss - without.loss, config.router_aux_loss_coef * plain.aux_loss, "loss")
    with torch.no_grad():
        dense = model(**prompt, labels=labels, output_router_logits=True)
        with case.sparse(attention, retain=1.0):
            same = model(**prompt, labels=labels, output_router_logits=True)
    assert torch.equal(dense.loss, same.loss) and torch.equal(dense.aux_loss, same.aux_loss)


def _gone(case: Case, ids: Tensor, kept: list[Any], stages: tuple[int, ...]) -> list[Tensor]:
    """Which tokens [b, n] are gone after none of the stages, the first of them, ..."""
    visual = torch.isin(ids, torch.tensor(case.family.visual_ids))
    found = [torch.zeros_like(visual)]
    for stage in kept:
        gone = visual.clone()
        for i, stay in enumerate(stage if isinstance(stage, list) else [stage]):
            gone[i, visual[i].nonzero()[stay, 0]] = False
        found.append(gone)
    return found
