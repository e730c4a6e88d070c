"""Arguments that a caller gives by their position mean what they mean by their name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsesight import SparseSightError, sparsify
from tests.hf.families import ALL
from tests.hf.families.base import SAMPLES
from tests.hf.prompt.test_prompt_end import language_model

ANSWER = 2  # tokens


def in_order(module: nn.Module, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As many of the arguments by position as a call can have so; what it cannot stays named."""
    names = [
        name
        for name, x in inspect.signature(type(module).forward).parameters.items()
        if x.kind is x.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    last = max(names.index(name) for name in given if name in names)
    rest = {name: value for name, value in given.items() if name not in names}
    return tuple(given.get(name) for name in names[: last + 1]), rest


def same(run: Any, call: Any, module: nn.Module, given: dict[str, Any]) -> Any:
    """The output of both, which are one."""
    found = []
    for args, rest in (((), given), in_order(module, given)):
        with torch.no_grad():
            out = call(*args, **rest)
        found.append((out, [torch.cat(stage) for stage in run.kept], str(run.report)))
    (a, kept, report), (b, again, other) = found
    assert torch.equal(a[0], b[0]) and report == other
    assert kept and all(torch.equal(x, y) for x, y in zip(kept, again, strict=True))
    return a


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl_moe", "gemma3n"])
def test_of_a_model(name: str, wrapped: bool) -> None:
    """Of the model with labels, under PEFT's wrapper, and of the one inside, which has a mask of padding."""
    family = next(family for family in ALL if family.name == name)
    model, prompt = family.build("sdpa"), family.prompts(SAMPLES[:2])
    given = {**prompt, "labels": torch.full_like(prompt["input_ids"], -100)}
    given["labels"][:, -ANSWER:] = prompt["input_ids"][:, -ANSWER:]
    if "output_router_logits" in inspect.signature(type(model).forward).parameters:
        given["output_router_logits"] = True
    outer: Any = model
    if wrapped:
        peft = pytest.importorskip("peft")
        outer = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with sparsify(outer, retain=0.4) as run:
        same(run, outer, model, given)
        assert not any(run.raters(i)[-ANSWER:].any() for i in (0, 1))
        same(run, model.model, model.model, prompt)


def test_of_a_decoder() -> None:
    """With the caller's visual mask: padding, positions, embeddings and a cache are seen."""
    model, ids, visual = language_model()
    mask = torch.ones_like(ids)
    mask[:, :2] = 0
    embeds = model.get_input_embeddings()(ids)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    for call in (model, model.model):
        with sparsify(model, visual_mask=visual & mask.bool(), retain=0.4, layers=(0, 1)) as run:
            given: dict[str, Any] = {"attention_mask": mask, "position_ids": position}
            for tokens in ({"input_ids": ids}, {"inputs_embeds": embeds}):
                same(run, call, call, {**given, **tokens})
            later = ids[:, :3]
            turn = {"input_ids": later, "attention_mask": torch.nn.functional.pad(mask, (0, 3), value=1)}
            found: list[Tensor] = []
            for by_position in (False, True):
                with torch.no_grad():
                    cache = call(input_ids=ids, **given).past_key_values
                    args, rest = (
                        in_order(call, {**turn, "past_key_values": cache}) if by_position else ((), turn)
                    )
                    found.append(
                        call(*args, **rest, **({} if by_position else {"past_key_values": cache}))[0]
                    )
            assert torch.equal(*found)


def test_of_embeddings_alone() -> None:
    family = ALL[0]
    model, decoder = family.build("sdpa"), family.build("sdpa").get_decoder()
    given = {"inputs_embeds": torch.randn(1, 5, decoder.config.hidden_size)}
    with sparsify(model), pytest.raises(SparseSightError, match="visual_tokens"):
        args, _ = in_order(model.get_decoder(), given)
        model.get_decoder()(*args)
