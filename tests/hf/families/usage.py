"""What is tried with every family beside prompts: later turns, outputs of all layers, masks of one's own, exceptions,
compilation, methods before the decoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sparsesight import sparsify
from sparsesight.method_names import DEFAULT
from tests.hf.snapshot import Snapshot

from .base import Sample
from .case import INSIDE, NEW, Case

ASKED = {"output_hidden_states": True, "output_attentions": True}
GENERATING: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
IN_CHATS: dict[str, Any] = {**GENERATING, "max_new_tokens": 3, "output_logits": True}


def method_of(case: Case) -> str:
    """One within the decoder, or before it."""
    return case.early if case.number % 3 == 0 else case.turn(*INSIDE)


# -- later turns ------------------------------------------------------------------------------------------------


def turns(case: Case, attention: str) -> None:
    """Turns of text alone over a kept cache are those of the dense chat in which dropped tokens are hidden."""
    ids = case.prompt(0)["input_ids"][0]
    with case.sparse(attention, method_of(case)) as run:
        said = chat(case, attention, run)
        kept = [stage[0] for stage in said.kept]
    with case.blinded(case.gone(ids, run.layers, kept)):
        wanted = chat(case, "eager")
    for i, (mine, dense) in enumerate(zip(said.logits, wanted.logits, strict=True)):
        case.close(mine, dense, f"turn {i + 1}")


def dense_turns_again(case: Case, attention: str) -> None:
    """Keeping everything, later turns are the dense chat's, bit for bit."""
    # Assisted decoding of transformers skips what of a second turn is not cached; nor does it take back states.
    assisted = case.number % 2 and "r" not in case.family.kinds
    how: dict[str, Any] = {"prompt_lookup_num_tokens": 2} if assisted else {}
    with sparsify(case.models[attention], **case.budget(retain=1.0)):
        whole = chat(case, attention, **how)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.logits, chat(case, attention, **how).logits, strict=True)
    )


def dense_turns(case: Case, attention: str) -> None:
    """The same without sparsification."""
    chat(case, attention)


class Chat(NamedTuple):
    logits: list[
        Tensor
    ]  # of a prompt's answer, of a second turn through generate, of a third by a plain forward
    kept: list[list[Tensor]]


def chat(case: Case, attention: str, run: Any = None, **second_turn: Any) -> Chat:
    model, last = case.models[attention], IN_CHATS | second_turn
    first = model.generate(**case.prompt(0), **IN_CHATS)
    kept = [] if run is None else run.kept
    question = case.family.prompts([Sample("USER : how many ring ? ASSISTANT :")])["input_ids"]
    ids, cache = torch.cat((first.sequences, question), 1), first.past_key_values
    second = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **last)
    more = torch.cat((second.sequences[:, -1:], question[:, 1:]), 1)
    with torch.no_grad():
        third = model(input_ids=more, past_key_values=second.past_key_values).logits
    return Chat([*(torch.stack(x.logits, 1) for x in (first, second)), third], kept)


# -- outputs of all layers --------------------------------------------------------------------------------------


def outputs(case: Case, attention: str) -> None:
    """Hidden states and attentions are as long as the dense model's, and the oracle's where tokens were left."""
    method, prompt = method_of(case), case.prompt(0)
    ids = prompt["input_ids"][0]
    with case.sparse("eager", method) as run:
        mine, steps = every_layer(case, "eager", prompt)
        kept, layers = [stage[0] for stage in run.kept], run.layers
    gone = case.gone(ids, layers, kept)
    with case.blinded(gone):
        dense, _ = every_layer(case, "eager", prompt, steps=False)
    _, dense_steps = every_layer(case, "eager", prompt)
    assert shapes(mine) == shapes(dense) and [shapes(x) for x in steps] == [shapes(x) for x in dense_steps]
    for i, (a, b) in enumerate(zip(mine[0][1:], dense[0][1:], strict=True)):
        there = torch.ones(len(ids), dtype=torch.bool)
        there[gone.get(i, there[:0].long())] = False
        if a.shape[-2] == len(ids):  # else of the last rows, with which a decoder goes on
            case.close(a[..., there, :], b[..., there, :], f"after layer {i}")
            assert not a[..., ~there, :].any()
    with case.sparse("sdpa", method):
        again, _ = every_layer(case, "sdpa", prompt, steps=False)
    for a, b in zip(again[0], mine[0], strict=True):
        case.close(a, b, "sdpa")


def every_layer(case: Case, attention: str, prompt: dict[str, Any], steps: bool = True) -> Any:
    """Hidden states and attentions of a forward, and of the steps of a generation, one of them over a full window."""
    model = case.models[attention]
    asked = ASKED if attention == "eager" else {"output_hidden_states": True}
    with torch.no_grad():
        out = model(**prompt, **asked)
    made = model.generate(**prompt, **GENERATING, **asked) if steps else None
    each = list(zip(made.hidden_states, made.attentions, strict=True)) if made is not None else []
    return (out.hidden_states, out.attentions or ()), each


def shapes(states: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> list[list[Any]]:
    return [[None if x is None else x.shape for x in each] for each in states]


def dense_outputs(case: Case, attention: str) -> None:
    """The same without sparsification."""
    every_layer(case, "eager", case.prompt(0))


# -- masks of one's own -----------------------------------------------------------------------------------------


def masks(case: Case, attention: str) -> None:
    """A batch padded on the right, under the caller's own 4D mask, gives each sample what it gets alone."""
    with case.sparse(attention, method_of(case)) as run:
        whole, kept = padded_right(case, attention, (0, 3), run)
        for i, which in enumerate((0, 3)):
            alone, own = padded_right(case, attention, (which,), run)
            case.close(whole[i, : alone.shape[1]], alone[0], f"sample {which}")
            for stage, mine in zip(kept, own, strict=True):
                assert torch.equal(stage[i], mine[0]), f"sample {which}: kept others"


def dense_masks(case: Case, attention: str) -> None:
    """The same without sparsification."""
    whole, _ = padded_right(case, attention, (0, 3))
    for i, which in enumerate((0, 3)):
        alone, _ = padded_right(case, attention, (which,))
        case.close(whole[i, : alone.shape[1]], alone[0], f"sample {which}")


def several_axes(case: Case, attention: str, prompt: dict[str, Any]) -> Tensor | None:
    """The positions [axes, b, n] that a model with several axes gives a prompt: it makes none from a 4D mask."""
    seen: list[Any] = []
    decoder = case.models[attention].get_submodule(case.family.layers.removesuffix(".layers"))
    hook = decoder.register_forward_pre_hook(
        lambda m, a, how: seen.append(how.get("position_ids")), with_kwargs=True
    )
    with torch.no_grad():
        case.models[attention](**prompt)
    hook.remove()
    return seen[0] if isinstance(seen[0], Tensor) and seen[0].ndim == 3 else None


def padded_right(case: Case, attention: str, which: tuple[int, ...], run: Any = None) -> tuple[Tensor, Any]:
    """Logits of a forward, and what was kept for it."""
    prompt = case.prompt(*which)
    position = several_axes(case, attention, prompt)
    real = prompt.pop("attention_mask").bool()
    pads = (~real).sum(1).tolist()
    for name, value in prompt.items():
        if isinstance(value, Tensor) and value.shape[:2] == real.shape:
            prompt[name] = torch.stack([x.roll(-n, 0) for x, n in zip(value, pads, strict=True)])
    if position is not None:
        prompt["position_ids"] = torch.stack([position[:, i].roll(-n, 1) for i, n in enumerate(pads)], 1)
    length = real.shape[1]
    there = torch.arange(length) < real.sum(1, keepdim=True)
    seen = torch.ones(length, length, dtype=torch.bool).tril() & there[:, None]
    form = case.number % 3
    if form:  # no row of padding is without anything that it sees
        seen = seen | (torch.eye(length, dtype=torch.bool) & ~there[:, None])
    mask = seen[:, None]
    if form == 2:
        mask = mask.expand(-1, 4, -1, -1)
    if attention == "eager":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = case.models[attention](**prompt, attention_mask=mask).logits
    return logits, None if run is None else run.kept


# -- exceptions, compilation, methods before the decoder ------------------------------------------------------------


def exceptions(case: Case, attention: str) -> None:
    """What raises in a late layer, in the prompt or in a step, leaves nothing behind, inside nor afterwards."""
    check_exceptions(case, attention, (case.number // 6 % 2,))


def exceptions_of_all(case: Case, attention: str) -> None:
    """Both, one after the other."""
    check_exceptions(case, attention, (0, 1))


def check_exceptions(case: Case, attention: str, where: tuple[int, ...]) -> None:
    model, prompt, name = case.models[attention], case.prompt(0), method_of(case)
    wanted, dense = case.run(attention, name, 0), case.dense(attention, 0)
    with case.sparse(attention, name) as run:
        for passes in where:
            left = [passes]

            def fail(*args: Any, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise ZeroDivisionError

            hook = case.layers(attention)[-1].register_forward_pre_hook(fail)
            with pytest.raises(ZeroDivisionError):
                model.generate(**prompt, max_new_tokens=NEW, do_sample=False)
            hook.remove()
        assert torch.equal(case.generate(attention, prompt)[1], wanted.logits)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, wanted.kept, strict=True))
    assert torch.equal(case.generate(attention, prompt)[1], dense.logits)


def taken_back(case: Case, attention: str) -> None:
    """Also after an exception, nothing is left: on modules, in configs, in transformers' registries."""
    model = case.models[attention]
    before = Snapshot(model)
    with contextlib.suppress(ZeroDivisionError), case.sparse(attention):
        assert Snapshot(model).differences(before), "the snapshot sees nothing"
        raise ZeroDivisionError
    assert Snapshot(model).differences(before) == []


def compiled(case: Case, attention: str) -> None:
    """A layer after a stage gives, compiled, what it gives otherwise.

    Compiling takes long: one layer, in one forward, with PyTorch as the backend.
    """
    model, prompt = case.models[attention], case.prompt(0)
    torch.compiler.reset()
    with torch.no_grad(), case.sparse(attention, method_of(case)) as run:
        wanted, layer = model(**prompt, use_cache=False).logits, case.layers(attention)[run.layers[0] + 1]
        kept = run.kept
        try:
            layer.compile(backend="eager")
            assert torch.equal(model(**prompt, use_cache=False).logits, wanted)
            assert all(torch.equal(a[0], b[0]) for a, b in zip(run.kept, kept, strict=True))
        finally:
            layer._compiled_call_impl = None
            torch.compiler.reset()


def early(case: Case, attention: str) -> None:
    """The default, and another method that acts before the decoder, give what the dense model gives whose layers see
    no dropped token."""
    for method in (DEFAULT, case.early):
        run = case.run(attention, method, 0)
        tokens, logits = case.oracle(0, run.layers, [stage[0] for stage in run.kept])
        case.close(run.logits, logits, method)
        assert torch.equal(run.tokens, tokens)


# Where the dense model itself fails, the check says nothing.
DENSE: dict[str, Callable[[Case, str], None]] = {
    "turns": dense_turns,
    "dense_turns": dense_turns,
    "outputs": dense_outputs,
    "masks": dense_masks,
}
