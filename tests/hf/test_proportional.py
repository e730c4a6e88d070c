"""Proportional attention: a token that stands for several gets the attention that they would get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM

from sparsesight import Halves, sparsify, visual_tokens
from sparsesight.hf.masks import select_mask
from sparsesight.hf.probe import real_attention
from tests.hf import tiny
from tests.hf.test_invariants import BACKENDS, NEW, batch, close, generate, model
from tests.in_turn import in_turn

TIMES = (1, 3, 1, 4, 2, 1)  # of each visual token
BEFORE, AFTER = 2, 5


def decoder(attention: str) -> Any:
    """A model of two layers, of which the second changes nothing."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=50, initializer_range=0.3)
    config._attn_implementation = attention
    built: Any = LlamaForCausalLM(config).eval()
    for last in (built.model.layers[1].self_attn.o_proj, built.model.layers[1].mlp.down_proj):
        torch.nn.init.zeros_(last.weight)
    built.generation_config.eos_token_id, built.generation_config.pad_token_id = None, 0
    return built


def test_equal_keys_are_one_with_a_weight() -> None:
    """The functions of all implementations on duplicated keys, and on the single ones with the mask."""
    layer = decoder("eager").model.layers[0].self_attn
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=generator)
    key, value = (torch.randn(2, 2, 6, 8, generator=generator) for _ in range(2))
    times = torch.tensor([TIMES, TIMES[::-1]])
    slot, row = torch.arange(6).expand(2, -1), torch.arange(3, 6).expand(2, -1) - 3
    rule = torch.ones(3, 6, dtype=torch.bool).tril(3)[None]
    for i in range(2):
        wide = torch.repeat_interleave(torch.arange(6), times[i])
        logits = query[i].unflatten(0, (2, 2)) @ key[i, :, None, wide].mT / 8**0.5
        weights = logits.masked_fill(~rule[0][:, wide], -torch.inf).softmax(-1)
        expected = (weights @ value[i, :, None, wide]).flatten(0, 1).transpose(0, 1)
        block = create_block_mask(lambda b, h, q, k: k <= q + 3, 2, None, 3, 6, device="cpu")
        additive = torch.zeros(rule.shape).masked_fill(~rule, torch.finfo(torch.float32).min)[:, None]
        for name, mask in (
            ("eager", additive),
            ("sdpa", None),
            ("sdpa", rule[:, None]),
            ("flex_attention", block),
        ):
            weighted = select_mask(
                mask,
                row,
                slot,
                torch.ones_like(slot, dtype=torch.bool),
                ragged=False,
                past=3,
                total=6,
                flash=False,
                multiplicity=times.float(),
            )
            out, _ = real_attention(layer, name)(layer, query, key, value, weighted, scaling=8**-0.5)
            torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=1e-5)


def spliced(built: Any, times: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [1, n, c], visual mask and positions of text, tokens that come several times, and text."""
    generator = torch.Generator().manual_seed(7)
    wide = torch.repeat_interleave(torch.arange(len(times)), torch.tensor(times))
    picture = torch.randn(len(times), 32, generator=generator)[wide]
    text = built.get_input_embeddings()(torch.randint(50, (BEFORE + AFTER,), generator=generator)).detach()
    embeds = torch.cat((text[:BEFORE], picture, text[BEFORE:]))[None]
    visual = torch.zeros(1, embeds.shape[1], dtype=torch.bool)
    visual[:, BEFORE:-AFTER] = True
    last = BEFORE + len(times)
    position = torch.cat((torch.arange(BEFORE), BEFORE + wide, torch.arange(last, last + AFTER)))[None]
    return embeds, visual, position


EQUAL = {"halves": (TIMES, {"asked": 0.0}), "tome": ((1, 2, 1, 2, 1, 2), {})}  # pairs are matched at once


@pytest.mark.parametrize(("attention", "method"), in_turn(BACKENDS, list(EQUAL), slow_once=True))
def test_a_picture_of_equal_tokens_is_the_picture_without_them(attention: str, method: str) -> None:
    """In one layer, where text alone asks, the prompt, a later turn and its tokens get the dense model's logits."""
    built, (times, options) = decoder(attention), EQUAL[method]
    embeds, visual, position = spliced(built, times)
    later = torch.tensor([[7, 8, 9]])

    def run() -> Tensor:
        first = built(inputs_embeds=embeds, position_ids=position, use_cache=True)
        turn = position[:, -1:] + torch.arange(1, 4)
        second = built(input_ids=later, position_ids=turn, past_key_values=first.past_key_values)
        step = built(
            input_ids=later[:, :1], position_ids=turn[:, -1:] + 1, past_key_values=first.past_key_values
        )
        return torch.cat((first.logits[:, -AFTER:], second.logits, step.logits), 1)

    with torch.no_grad(), visual_tokens(built, visual):
        dense = run()
        for proportional in (True, False):
            settings = {**options, "retain": (len(times),), "layers": (-1,), "proportional": proportional}
            with sparsify(built, method, visual_mask="per call", **settings), visual_tokens(built, visual):
                sparse = run()
            error = (sparse - dense).abs().max()
            assert error < 1e-4 if proportional else error > 1e-2


@contextmanager
def weighted_layers(built: Any, masks: list[Tensor]) -> Iterator[None]:
    """Within it, layer ``i`` of a dense model on eager attention has the additive mask ``masks[i]``."""
    hooks = []
    for layer, mask in zip(built.get_decoder().layers, masks, strict=True):

        def hook(module: Any, args: Any, kwargs: Any, mask: Tensor = mask) -> Any:
            return args, {**kwargs, "attention_mask": mask}

        hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@pytest.mark.parametrize(("family", "attention"), in_turn(tiny.FAMILIES, BACKENDS))
def test_oracle(family: str, attention: str) -> None:
    """A dense run in which later layers do not see what was dropped, and see the rest as often as it counts."""
    built, prompt = model(family, attention), batch(family, (1,))
    with sparsify(built, Halves(0.4, proportional=True), trace=True) as run:
        tokens, logits, _ = generate(built, prompt)
        traces, layers = run.trace, run.layers
        for stage, kept in zip(run.choices(), run.kept, strict=True):
            counts = stage.multiplicity
            assert counts is not None and counts.sum() == len(counts)
            assert counts.nonzero()[0].tolist() == kept[0].tolist()
    ids = torch.cat((prompt["input_ids"][0], tokens[0]))
    n, low = len(ids), torch.finfo(torch.float32).min
    causal = torch.zeros(n, n).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), low)
    masks = []
    for i in range(len(built.get_decoder().layers)):
        mask = causal.clone()
        passed = [t for t, p in zip(traces, layers, strict=True) if i > p]
        if passed:
            rows = passed[-1].rows
            assert rows.multiplicity is not None and rows.multiplicity.max() > 1
            gone = torch.ones(n, dtype=torch.bool)
            gone[rows.source[0]] = gone[-NEW:] = False
            mask[:, gone] = low
            mask[gone, gone] = 0.0  # their own rows: nobody looks at them
            mask[:, rows.source[0]] += rows.multiplicity[0].log()
        masks.append(mask[None, None])
    pictures = {k: v for k, v in prompt.items() if k not in ("input_ids", "attention_mask")}
    dense = model(family, "eager")
    with weighted_layers(dense, masks), torch.no_grad():
        expected = dense(input_ids=ids[None], attention_mask=torch.ones(1, n, dtype=torch.long), **pictures)
    close(logits[0], expected.logits[0, -NEW - 1 : -1])
