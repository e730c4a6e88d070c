"""The handle: what it reports, what it refuses, and that two of them do not meet."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, StaticCache, T5Config, T5Model

from sparsesight import BudgetError, Random, SparseSightError, SparseVLM, UnsupportedModelError, sparsify
from sparsesight.method_names import DEFAULT
from tests.hf import tiny
from tests.hf.test_invariants import NEW, batch, close, generate, model
from tests.hf.threads import wrong_in_threads


def small_llama(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "vocab_size": 50, **settings})).eval()


def test_handle_without_context() -> None:
    built, prompt = model("llava"), batch("llava")
    dense = generate(built, prompt)[1]
    handle = sparsify(built, Random(0.3))
    assert not torch.equal(generate(built, prompt)[1], dense)
    handle.restore()
    handle.restore()  # harmless
    assert torch.equal(generate(built, prompt)[1], dense)
    assert handle.kept and handle.report  # still readable
    with pytest.raises(SparseSightError, match="restored"), handle:
        pass


def test_method_by_name_or_instance() -> None:
    built = model("llava")
    with sparsify(built, "sparsevlm", retain=0.5, layers=[0, 3]) as run:
        assert run.method == SparseVLM(0.5, (0, 3)) and run.layers == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fastest"}, "method='fastest' is unknown; known are"),
        ({"method": 3}, "method=3 is unknown"),
        ({"retian": 64}, r"no option \['retian'\]"),
        ({"method": Random(8), "retain": 9}, "give them to Random"),
        ({"retain": 0}, "retain=0"),
        ({"retain": 1.5}, "retain=1.5"),
        ({"retain": "64"}, "retain='64'"),
        ({"layers": (3, 1)}, "layers="),
        ({"layers": (2, 6, 15)}, "from 0 to 5"),
        ({"retain": (10, 5), "layers": (1, 2, 3)}, "2 counts for 3"),
        ({"retain": (10, 5, 3, 2)}, "4 counts for 2"),
        ({"positions": "relative"}, "positions='relative'"),
        ({"method": "sparsevlm+", "heads": 0}, "heads=0"),
        ({"trim_early_layers": "no"}, "trim_early_layers='no': use True or False"),
        ({"timing": 1}, "timing=1: use True or False"),
    ],
)
def test_bad_arguments_install_nothing(arguments: dict[str, Any], message: str) -> None:
    built = model("llava")
    with pytest.raises(SparseSightError, match=message):
        sparsify(built, **arguments)
    with sparsify(built):  # nothing half-applied is in the way
        pass


def test_double_installation_is_refused() -> None:
    built = model("llava")
    with sparsify(built, retain=0.3) as run:
        with pytest.raises(SparseSightError, match="already sparsified"):
            sparsify(built)
        with pytest.raises(SparseSightError, match="already sparsified"):
            sparsify(built.model)
        generate(built, batch("llava", (0,)))
        assert run.kept
    with sparsify(built):
        pass


def test_budget_that_cannot_be_met() -> None:
    """A ratio fails at once; a count when the picture's size is known, before any layer ran; both say what works."""
    built, prompt = model("llava"), batch("llava", (0,))
    with pytest.raises(BudgetError, match=r"ratios 0\.286 to 1\.0"):
        sparsify(built, layers=(2, 3, 4), retain=0.05)
    with sparsify(built, layers=(2, 3, 4), retain=4):
        calls: list[int] = []
        hook = built.get_decoder().layers[0].register_forward_pre_hook(lambda *a: calls.append(1))
        with pytest.raises(BudgetError, match=r"possible are \d+ to 64"):
            generate(built, prompt)
        hook.remove()
        assert not calls
        # A prompt without a picture is no problem.
        assert generate(built, batch("llava", (2,)))[0].shape == (1, NEW)


def test_models_that_cannot_be_sparsified() -> None:
    with pytest.raises(UnsupportedModelError, match="no visual tokens"):
        sparsify(small_llama())
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    with pytest.raises(UnsupportedModelError):
        sparsify(BertModel(BertConfig(**sizes, vocab_size=20)))
    with pytest.raises(UnsupportedModelError):
        sparsify(T5Model(T5Config(d_model=16, d_ff=16, num_layers=2, num_heads=2, vocab_size=20)))
    with pytest.raises(UnsupportedModelError):
        sparsify(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError):
        sparsify("llava-hf/llava-1.5-7b-hf")  # type: ignore[arg-type]


def test_prompt_without_a_picture_runs_dense() -> None:
    built, prompt = model("llava"), batch("llava", (2,))
    dense = generate(built, prompt)[1]
    with sparsify(built, retain=8) as run:
        assert torch.equal(generate(built, prompt)[1], dense)
        (sample,) = run.report.samples
        assert sample.note == "ran dense: no visual tokens in its prompt" and run.kept == []
        assert sample.macs_sparse == sample.macs_dense and run.report.speedup_limit == 1


def test_prompt_without_text_after_the_picture_runs_dense() -> None:
    """Nobody can judge the picture: that sample keeps all of it, its batch mates are pruned as ever."""
    built, tools = model("llava"), tiny.processor("llava")
    end = ("what is the star ? <image>", [tiny.picture(5)])
    alone = tiny.inputs(tools, [end])
    dense = generate(built, alone)[1]
    with sparsify(built, retain=0.3) as run:
        assert torch.equal(generate(built, alone)[1], dense)
        assert run.report.samples[0].note == "ran dense: no text after the visual tokens" and run.kept == []
        for method in (None, SparseVLM(1.0, (1, 3), adaptive=True, scale=2.0)):
            if method is not None:
                run.restore()
                run = sparsify(built, method)
            _, logits, _ = generate(built, tiny.inputs(tools, [end, tiny.SAMPLES[0]]))
            close(logits[0], dense[0])
            kept, report = run.kept, run.report
            assert [len(stage[0]) for stage in kept] == [64] * len(kept)
            assert report.samples[0].note and not report.samples[1].note
            close(logits[1], generate(built, tiny.inputs(tools, [tiny.SAMPLES[0]]))[1][0])
            assert all(torch.equal(a[1], b[0]) for a, b in zip(kept, run.kept, strict=True))
        run.restore()


def test_report_before_a_run() -> None:
    with sparsify(model("llava")) as run:
        with pytest.raises(SparseSightError, match="not run yet"):
            _ = run.report
        with pytest.raises(SparseSightError, match="not run yet"):
            _ = run.kept


def test_report_is_json_and_a_table() -> None:
    built = model("llava")
    with sparsify(built, retain=0.4, timing=True) as run:
        generate(built, batch("llava"))
        data, text = json.loads(run.report.to_json()), str(run.report)
    assert data["method"] == {"method": DEFAULT, **data["method"]} and len(data["samples"]) == 4
    assert data["macs_sparse"] < data["macs_dense"] and data["kv_bytes_sparse"] < data["kv_bytes_dense"]
    assert data["prefill_ms"] > 0 and data["decode_ms"] > 0
    assert "sample 2" in text and "no visual tokens" in text
    with sparsify(built, retain=0.4) as run:
        generate(built, batch("llava"))
    assert run.report.prefill_ms is None


def test_visual_mask_for_a_language_model() -> None:
    """A stock decoder that gets pictures through inputs_embeds; beams repeat the mask; another prompt is left alone."""
    built = small_llama()
    embeds = torch.randn(2, 40, 32)
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, 3:30] = True
    mask[1, 5:20] = True
    how = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    how |= {"return_dict_in_generate": True, "eos_token_id": None}
    with sparsify(built, visual_mask=mask, retain=0.4, layers=(0, 1)) as run:
        out = built.generate(inputs_embeds=embeds, attention_mask=torch.ones(2, 40, dtype=torch.long), **how)
        kept = run.kept
        assert [len(k) for k in kept[0]] == [s.visual_per_layer[1] for s in run.report.samples]
        built.generate(inputs_embeds=embeds, num_beams=2, **{**how, "output_logits": False})
        assert torch.equal(run.kept[0][2], kept[0][1])
        with pytest.raises(SparseSightError, match=r"has shape \[2, 40\], but this call brings 30 tokens"):
            built(inputs_embeds=embeds[:, :30])
    for i in range(2):
        with sparsify(built, visual_mask=lambda x, i=i: mask[i : i + 1], retain=0.4, layers=(0, 1)):
            alone = built.generate(inputs_embeds=embeds[i : i + 1], **how)
        close(torch.stack(out.logits, 1)[i], torch.stack(alone.logits, 1)[0])
    with pytest.raises(SparseSightError, match="expected a boolean tensor"):
        sparsify(built, visual_mask=mask.long(), retain=0.4)


def test_static_cache_is_refused_before_anything_runs() -> None:
    built, prompt = model("llava"), batch("llava", (0,))
    with sparsify(built, retain=0.4):
        cache = StaticCache(built.config.get_text_config(), max_cache_len=200)
        with pytest.raises(UnsupportedModelError, match="StaticLayer"), torch.no_grad():
            built(**prompt, past_key_values=cache)
        assert cache.get_seq_length() == 0
        generate(built, prompt)


def test_what_keeping_everything_does_not_change_is_not_refused() -> None:
    """A cache that could not be pruned, and gradient checkpointing, do no harm where nothing is pruned."""
    built, prompt = model("llava"), batch("llava", (0,))
    how = {"max_cache_len": 200}
    with torch.no_grad():
        dense = built(**prompt, past_key_values=StaticCache(built.config.get_text_config(), **how)).logits
        with sparsify(built, retain=1.0):
            cache = StaticCache(built.config.get_text_config(), **how)
            assert torch.equal(built(**prompt, past_key_values=cache).logits, dense)
    built.train()
    built.gradient_checkpointing_enable()
    try:
        with sparsify(built, retain=1.0):
            loss = built(**prompt, labels=prompt["input_ids"]).loss
        loss.backward()
    finally:
        built.gradient_checkpointing_disable()
        built.zero_grad()
        built.eval()


def test_layers_of_an_unknown_type_are_refused() -> None:
    built = small_llama()
    built.config.layer_types = ["full_attention", "hash_attention"] * 2
    with pytest.raises(UnsupportedModelError, match="hash_attention"):
        sparsify(built, visual_mask=torch.ones(1, 4, dtype=torch.bool))


def test_a_sliding_window_under_flash_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be counted in the tokens that are left."""
    built = small_llama()
    built.config.layer_types = ["full_attention", "sliding_attention"] * 2
    built.config.sliding_window = 8
    monkeypatch.setattr(built.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UnsupportedModelError, match="attn_implementation='sdpa'"):
        sparsify(built, visual_mask=torch.ones(1, 4, dtype=torch.bool))


def test_two_models_do_not_mix() -> None:
    one, two = tiny.model("llava"), tiny.model("llava_next")
    first, second = batch("llava", (0,)), batch("llava_next", (1,))
    with sparsify(one, retain=0.4):
        expected = generate(one, first)[1]
    with sparsify(two, Random(0.5)):
        other = generate(two, second)[1]
    with sparsify(one, retain=0.4), sparsify(two, Random(0.5)):
        assert torch.equal(generate(one, first)[1], expected)
        assert torch.equal(generate(two, second)[1], other)


def test_threads_on_one_model_do_not_mix() -> None:
    """Threads that interrupt each other everywhere, also inside the attention of a pruning layer."""
    built = tiny.model("llava")
    prompts = [batch("llava", (i,)) for i in (0, 1, 3)]
    with sparsify(built, retain=0.4), torch.no_grad():
        expected = [built(**prompt).logits for prompt in prompts]

        @torch.no_grad()  # grad mode is a thread's own
        def works(i: int) -> bool:
            return torch.equal(built(**prompts[i]).logits, expected[i])

        assert not wrong_in_threads((0, 1, 2, 0), works, 10, 1e-5)


def test_the_handle_does_not_keep_the_cache_alive() -> None:
    import gc
    import weakref

    built, prompt = model("llava"), batch("llava", (0,))
    with sparsify(built, retain=0.4) as run:
        _, _, cache = generate(built, prompt)
        ref = weakref.ref(cache.layers[-1])
        del cache
        gc.collect()
        assert ref() is None
        assert run.kept
