"""Methods that read the vision tower, in every way of running a model; what they get is tested in test_vision.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsesight import (
    SparseSightError,
    UnsupportedModelError,
    sparsify,
    visual_tokens,
)
from tests.hf import tiny
from tests.hf.test_invariants import batch, close, generate, model
from tests.hf.test_training import HOOKS_RUN_AGAIN
from tests.hf.threads import wrong_in_threads
from tests.hf.vision.class_token import BOTH, LATER, METHOD, SAMPLES, ClassToken, best, left
from tests.hf.vision.test_reader import seen_by, visual_of
from tests.in_turn import in_turn


@pytest.mark.parametrize(("family", "attention"), in_turn(tiny.FAMILIES, ["eager", "sdpa", "flex_attention"]))
def test_what_the_tower_looks_at_is_kept_of_every_sample(family: str, attention: str) -> None:
    built, prompt = model(family, attention), batch(family)
    with sparsify(built, METHOD) as run:
        _, logits, _ = generate(built, prompt)
        kept = run.kept[0]
        assert not left(run)
        for i in SAMPLES:
            _, own, _ = generate(built, batch(family, (i,)))
            close(logits[i], own[0])
    wanted = best(model(family), prompt, [len(k) for k in kept])
    assert [k.tolist() for k in kept] == wanted
    assert [bool(len(k)) for k in kept] == [True, True, False, True]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_plain_forward_and_generate_keep_the_same(family: str) -> None:
    built, prompt = model(family), batch(family)
    with sparsify(built, METHOD) as run:
        generate(built, prompt)
        wanted = run.kept[0]
        with torch.no_grad():
            built(**prompt)
        assert all(torch.equal(a, b) for a, b in zip(run.kept[0], wanted, strict=True))
        assert not left(run)


def test_every_stage_sees_what_is_left_of_it() -> None:
    built, prompt = model("llava_next"), batch("llava_next")
    whole, visual = seen_by(built, prompt), visual_of(built, prompt)
    with sparsify(built, LATER, trace=True) as run, torch.no_grad():
        built(**prompt)
    assert len(run.trace) == 3
    for step in run.trace:
        vision, stage = step.stage.vision, step.stage
        assert vision is not None
        for i in SAMPLES:
            there = stage.visual[i]
            origin = stage.origin[i][there]
            close(vision.attention[i][there], whole.attention[i][visual[i]][origin])
            close(vision.key[i][there], whole.key[i][visual[i]][origin])
            assert not vision.attention[i][~there].any() and not vision.key[i][~there].any()


def test_it_composes() -> None:
    built, prompt = model("llava"), batch("llava")
    with sparsify(built, BOTH) as run:
        generate(built, prompt)
        kept = run.kept
    wanted = best(built, prompt, [len(k) for k in kept[0]])
    assert [k.tolist() for k in kept[0]] == wanted
    assert all(set(b.tolist()) < set(a.tolist()) for a, b in zip(kept[0], kept[-1], strict=True) if len(a))


@pytest.mark.parametrize(
    "how",
    [
        {"use_cache": False},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=str,
)
def test_ways_of_generating(how: dict[str, Any]) -> None:
    built = model("llava")
    # One picture each: older transformers mix up those of a sample's beams.
    which = (0,) if "prompt_lookup_num_tokens" in how else (0, 3)
    prompt = batch("llava", which)
    settings = {"max_new_tokens": 4, "do_sample": False, **how}
    with sparsify(built, METHOD) as run:
        torch.manual_seed(0)
        got = built.generate(**prompt, **settings)
        assert not left(run)
        kept = run.kept[0]
        torch.manual_seed(0)
        again = built.generate(**prompt, **settings)
        assert torch.equal(got, again)
        if "use_cache" in how:
            assert torch.equal(got, built.generate(**prompt, **{**settings, "use_cache": True}))
    repeats = len(kept) // len(which)
    wanted = best(built, prompt, [len(k) for k in kept[::repeats]])
    assert [k.tolist() for k in kept] == [w for w in wanted for _ in range(repeats)]


def test_a_chat_over_a_kept_cache() -> None:
    """A turn without pictures takes nothing, one with a picture takes its own."""
    built, tools = model("llava"), tiny.processor("llava")
    turns = [tiny.SAMPLES[0], ("what is a star ?", []), ("and <image> how many ?", [tiny.picture(9)])]
    with sparsify(built, ClassToken(24)) as run:
        cache: Any = None
        ids, mask, new = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long), []
        for text, pictures in turns:
            turn = tiny.inputs(tools, [(text, pictures)])
            ids = torch.cat((ids, turn["input_ids"]), 1)
            mask = torch.ones_like(ids)
            more = {k: v for k, v in turn.items() if k not in ("input_ids", "attention_mask")}
            out = built.generate(
                ids, attention_mask=mask, **more, past_key_values=cache, max_new_tokens=2, do_sample=False,
                return_dict_in_generate=True,
            )  # fmt: skip
            cache, ids = out.past_key_values, out.sequences
            new.append([k.tolist() for k in run.kept[0]] if pictures else None)
            assert not left(run)
    last = tiny.inputs(tools, [turns[2]])
    assert new[2] == best(built, last, [24]) and new[0] == best(built, tiny.inputs(tools, [turns[0]]), [24])


def encoded(built: Any, prompt: Any) -> tuple[Tensor, Tensor]:
    """Embeddings of a prompt whose picture was encoded before, and where its visual tokens are."""
    visual = visual_of(built, prompt)
    rows = built.get_input_embeddings()(prompt["input_ids"])
    made = built.model.get_image_features(prompt["pixel_values"]).pooler_output
    return rows.masked_scatter(visual[..., None], torch.cat(list(made))), visual


def test_pictures_encoded_before_the_call() -> None:
    built, prompt, other = model("llava"), batch("llava", (0,)), batch("llava", (3,))
    words = batch("llava", (2,))
    with torch.no_grad(), sparsify(built, METHOD, visual_mask="per call") as run:
        embeds, visual = encoded(built, prompt)
        with visual_tokens(built, visual):
            built(inputs_embeds=embeds, attention_mask=prompt["attention_mask"])
        kept = run.kept[0]
        assert not left(run)
        # Of another prompt, or of the one before, nothing is taken.
        encoded(built, other)
        with visual_tokens(built, visual), pytest.raises(UnsupportedModelError, match="of 64 of the 64"):
            built(inputs_embeds=embeds)
        assert not left(run)
        encoded(built, prompt)
        with visual_tokens(built, None):
            built(inputs_embeds=built.get_input_embeddings()(words["input_ids"]))
        assert not left(run)
        with (
            visual_tokens(built, visual),
            pytest.raises(SparseSightError, match="since the last prompt none"),
        ):
            built(inputs_embeds=embeds)
    assert [k.tolist() for k in kept] == best(built, prompt, [len(kept[0])])


def test_two_threads_on_one_model() -> None:
    built = model("llava_next")
    prompts = [batch("llava_next", (i,)) for i in (0, 1, 3)]
    with sparsify(built, METHOD):
        wanted = [generate(built, prompt)[1] for prompt in prompts]

        def works(job: int) -> bool:
            return torch.equal(generate(built, prompts[job])[1], wanted[job])

        assert not wrong_in_threads(range(3), works, 5, 1e-5)


def test_an_attention_implementation_that_is_set_later_is_followed() -> None:
    built, prompt = tiny.model("llava", "eager"), batch("llava")
    with sparsify(built, METHOD) as run:
        _, eager, _ = generate(built, prompt)
        kept = run.kept[0]
        built.set_attn_implementation("sdpa")
        _, sdpa, _ = generate(built, prompt)
        attention: Any = built.model.vision_tower.encoder.layers[-1].self_attn
        assert attention.config._attn_implementation == "sdpa"
        assert all(torch.equal(a, b) for a, b in zip(kept, run.kept[0], strict=True))
    close(eager, sdpa)


@pytest.mark.parametrize("checkpointed", [False] if HOOKS_RUN_AGAIN else [False, True])
def test_training(checkpointed: bool) -> None:
    built, prompt = tiny.model("llava"), batch("llava", (0, 1))
    visual = visual_of(built, prompt)
    labels = torch.where(visual | visual.roll(1, 1), -100, prompt["input_ids"])
    built.train()
    if checkpointed:
        built.gradient_checkpointing_enable()
    with sparsify(built, METHOD) as run:
        built(**prompt, labels=labels).loss.backward()
        assert not left(run)
    assert built.model.vision_tower.encoder.layers[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert built.model.multi_modal_projector.linear_1.weight.grad.isfinite().all()


@pytest.mark.parametrize("given", ["wrapper", "model"])
def test_adapters_on_tower_and_projector(given: str) -> None:
    peft = pytest.importorskip("peft")
    built, prompt = tiny.model("llava"), batch("llava")
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(built, config).eval()
    with sparsify(adapted if given == "wrapper" else built, METHOD) as run:
        generate(adapted, prompt)
        kept = run.kept[0]
    wanted = best(built, prompt, [len(k) for k in kept])
    assert [k.tolist() for k in kept] == wanted != best(model("llava"), prompt, [len(k) for k in kept])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_that_are_elsewhere(family: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    built, prompt = tiny.model(family), batch(family)
    with sparsify(built, METHOD) as run, torch.no_grad():
        wanted = built(**prompt).logits
        kept = run.kept[0]
        accelerate.cpu_offload(built, execution_device=torch.device("cpu"))
        assert built.model.multi_modal_projector.linear_1.weight.device.type == "meta"
        assert torch.equal(built(**prompt).logits, wanted)
        assert all(torch.equal(a, b) for a, b in zip(run.kept[0], kept, strict=True))
