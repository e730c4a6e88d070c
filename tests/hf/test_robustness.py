"""Prompts nobody thought of, failures in every place, a thousand calls, a model too large to touch."""

from __future__ import annotations

import gc
import os
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sparsesight import METHODS, BudgetError, sparsify
from sparsesight.hf.cache import PrunedLayer
from sparsesight.hf.forward import Forward
from sparsesight.hf.hooks import Hooks
from tests.hf import tiny
from tests.hf.oracle import oracle_logits
from tests.hf.test_installed import plain_state
from tests.hf.test_invariants import Broken, batch, close, fingerprint, model


def patience(test: Any) -> Any:
    """Marks a test that takes minutes."""
    asked = pytest.mark.skipif(
        "SPARSESIGHT_SLOW" not in os.environ, reason="takes minutes: set SPARSESIGHT_SLOW=1"
    )
    return pytest.mark.slow(asked(test))


# -- any prompt ---------------------------------------------------------------------------------------------------

words = st.sampled_from([w for w in tiny.WORDS if w not in tiny.SPECIAL])
picture = st.builds(tiny.picture, st.integers(0, 99), st.integers(7, 150), st.integers(7, 150))
part = st.one_of(st.lists(words, min_size=0, max_size=6).map(" ".join), picture)
prompt = st.lists(part, min_size=0, max_size=5).map(
    lambda parts: (
        " ".join(p if isinstance(p, str) else "<image>" for p in parts),
        [p for p in parts if not isinstance(p, str)],
    )
)
budget = st.one_of(
    st.floats(0.3, 1.0), st.integers(8, 70), st.just((40, 20, 10)), st.just((64, 3)), st.integers(1, 3)
)
options = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.sampled_from([(0,), (1, 4), (0, 1, 2), (2, 3, 5)]),
        "positions": st.sampled_from(["original", "compact"]),
        "always_drop": st.booleans(),
    },
)


def check_prompts(
    family: str, attention: str, samples: Any, side: str, method: str, retain: Any, how: dict[str, Any]
) -> None:
    built, tools = model(family, attention), tiny.processor(family)
    tools.tokenizer.padding_side = side
    if max(len(text.split()) for text, _ in samples) < 2:
        samples = [*samples, tiny.SAMPLES[2]]  # nothing at all is no prompt, a single token a decoding step
    inputs = tiny.inputs(tools, samples)
    real = inputs["attention_mask"].bool()
    before = built(**inputs).logits
    try:
        run = sparsify(built, method, retain=retain, **how)
        with run:
            logits = built(**inputs).logits
            kept, report, layers = run.kept, run.report, run.layers
            alone = []
            for i, sample in enumerate(samples):
                own = tiny.inputs(tools, [sample]) if real[i].any() else None
                alone.append(None if own is None else (built(**own).logits[0], run.kept))
    except BudgetError as error:
        assert "retain" in str(error) or "layers" in str(error)
        assert torch.equal(built(**inputs).logits, before)
        return
    finally:
        assert not plain_state(built)
    assert torch.equal(built(**inputs).logits[real], before[real])
    for i in range(len(samples)):
        if alone[i] is None:
            continue
        ids = inputs["input_ids"][i][real[i]]
        text = ids != built.config.image_token_id
        close(logits[i][real[i]][text], alone[i][0][text])
        visual = int((~text).sum())
        assert report.samples[i].visual_tokens == visual
        for s, stage in enumerate(kept):
            mine = stage[i]
            assert torch.equal(mine, mine.unique()) and (not len(mine) or 0 <= mine[0] <= mine[-1] < visual)
            if alone[i][1]:
                assert torch.equal(mine, alone[i][1][s][0])
            else:
                assert len(mine) == visual  # it ran dense, alone and in the batch
    merges = method == "sparsevlm"
    if family == "llava" and kept and not merges and how.get("positions") != "compact":
        i = next(i for i in range(len(samples)) if len(kept[0][i]))
        own = tiny.inputs(tools, [samples[i]])
        ids = own["input_ids"][0]
        expected = oracle_logits(
            model(family), ids, [stage[i] for stage in kept], layers, pixel_values=own["pixel_values"]
        )
        text = ids != built.config.image_token_id
        close(logits[i][real[i]][text], expected[text])


anything = given(
    family=st.sampled_from(tiny.FAMILIES),
    attention=st.sampled_from(["eager", "sdpa"]),
    samples=st.lists(prompt, min_size=1, max_size=3),
    side=st.sampled_from(["left", "right"]),
    method=st.sampled_from(sorted(METHODS)),
    retain=budget,
    how=options,
)
quietly = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


@torch.no_grad()
@settings(max_examples=25, **quietly)
@anything
def test_any_prompt(**drawn: Any) -> None:
    """Right in a batch and alone, with budget and options drawn too, or refused with the budget's sentence."""
    check_prompts(**drawn)


@patience
@torch.no_grad()
@settings(max_examples=600, **quietly)
@anything
def test_any_prompt_for_long(**drawn: Any) -> None:
    check_prompts(**drawn)


# -- failures -----------------------------------------------------------------------------------------------------


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
    [(Broken, 0), (Broken, 1), (KeyboardInterrupt, 0)],
    ids=["prefill", "decoding", "interrupt"],
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
    with sparsify(built, retain=0.4) as run:
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
        # The decoder alone: whatever the failed prompt was, this one is not it.
        embeds = torch.randn(1, inputs["input_ids"].shape[1], 64)
        with torch.no_grad():
            built.get_decoder()(inputs_embeds=embeds)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
        assert torch.equal(two_steps(built, inputs), expected)
    assert fingerprint(built) == before and not plain_state(built)
    assert torch.equal(two_steps(built, inputs), dense)


# -- many calls ---------------------------------------------------------------------------------------------------


def census(built: Any) -> Counter[str]:
    """What is alive: objects by what they are, hooks on the model."""
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        for kind in (torch.Tensor, Forward, Hooks, PrunedLayer):
            if type(thing) is kind or (kind is PrunedLayer and isinstance(thing, kind)):
                found[kind.__name__] += 1
    found["hooks"] = sum(
        len(v)
        for m in built.modules()
        for k, v in vars(m).items()
        if k[-6:] == "_hooks" and isinstance(v, dict)
    )
    return found


def call_often(times: int) -> None:
    built = tiny.model("llava")
    prompts = [batch("llava", (i,)) for i in (0, 1, 2, 3)]
    ways: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}]

    def calls(count: int) -> None:
        for i in range(count):
            way = ways[i // 4 % 4]
            built.generate(**prompts[i % 4], max_new_tokens=2, do_sample=False, **way)

    def cycles(count: int) -> None:
        for _ in range(count):
            with sparsify(built, retain=0.4) as run:
                calls(2)
                assert run.kept
        del run

    with sparsify(built, retain=0.4):
        calls(16)
        before = census(built)
        calls(times)
        assert census(built) == before
    cycles(2)
    before = census(built)
    cycles(times // 10)
    assert census(built) == before
    assert before["Hooks"] == before["PrunedLayer"] == before["Forward"] == 0


def test_many_calls_leave_nothing() -> None:
    call_often(100)


@patience
def test_a_thousand_calls_leave_nothing() -> None:
    call_often(1000)


# -- a large model --------------------------------------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """Notes how many elements each tensor has that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.made.append(out.numel())
        return out


def test_a_model_of_seven_billion_weights_is_not_touched() -> None:
    """On the meta device, where reading a weight raises; and nothing of a size is made."""
    text = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    with torch.device("meta"):
        built = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    assert sum(p.numel() for p in built.parameters()) > 6e9
    before = fingerprint(built)
    with Sizes() as sizes:
        run = sparsify(built, "sparsevlm+", retain=64)
        during = {k: (id(p), p._version) for k, p in built.named_parameters()}
        run.restore()
    assert during == before["parameters"] and fingerprint(built) == before
    assert max(sizes.made, default=0) < 10_000
