"""What must hold for every method, family and attention implementation (design section 4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from sparsesight import METHODS, Method, SparseVLM, SparseVLMPlus, ToMe, VisionZip, sparsify
from sparsesight.methods import make_method
from tests.hf import tiny
from tests.hf.oracle import oracle_logits
from tests.in_turn import in_turn

BACKENDS = ("eager", "sdpa", "flex_attention")
NEW = 3
WITHOUT_MERGING: list[Method] = [
    SparseVLM(0.4, recycle=0.0),
    SparseVLM(1.0, (1, 3), adaptive=True, scale=3.0, recycle=0.0),
    *(m for m in (make_method(name, retain=0.4) for name in METHODS) if not m.recycled_fraction),
]
ALL = [
    *(make_method(name, retain=0.4) for name in METHODS),
    SparseVLM(0.4, positions="compact"),
    SparseVLM(1.0, (1, 3), "compact", adaptive=True, scale=3.0),
    SparseVLMPlus((30, 12), (0, 4)),
    VisionZip(0.4, positions="compact", add=True),
    ToMe(0.4, positions="compact"),
    *(make_method(n, retain=0.4, proportional=True) for n in ("halves", "sparsevlm", "tome", "visionzip")),
]


def label(value: Any) -> str:
    if not isinstance(value, Method):
        return str(value)
    options = f"{'-adaptive' * value.data_dependent}{'-proportional' * value.weights_keys}"
    return f"{value.name}-{value.positions}{options}-{value.layers}"


@lru_cache(maxsize=16)
def model(family: str, attention: str = "sdpa") -> Any:
    return tiny.model(family, attention)


@lru_cache(maxsize=4)
def processor(family: str) -> Any:
    return tiny.processor(family)


@lru_cache
def prepared(family: str, which: tuple[int, ...]) -> Any:
    return tiny.inputs(processor(family), [tiny.SAMPLES[i] for i in which])


def batch(family: str, which: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    """A new mapping of tensors that nobody writes to."""
    made = prepared(family, which)
    return type(made)(dict(made))


def generate(built: Any, prompt: Any, **how: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """New tokens [b, t], their logits [b, t, vocab] and the cache."""
    out = built.generate(
        **prompt, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True, **how
    )
    return out.sequences[:, -NEW:], torch.stack(out.logits, 1), out.past_key_values


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "attention", "method"), in_turn(tiny.FAMILIES, BACKENDS, ALL, slow_once=True), ids=label
)
def test_batch_equals_alone(family: str, attention: str, method: Method) -> None:
    """Left-padded, with different texts, picture counts and sizes, and a sample without a picture."""
    built = model(family, attention)
    with sparsify(built, method) as run:
        tokens, logits, _ = generate(built, batch(family))
        kept = run.kept
        for i in range(len(tiny.SAMPLES)):
            own_tokens, own_logits, _ = generate(built, batch(family, (i,)))
            close(logits[i], own_logits[0])
            assert torch.equal(tokens[i], own_tokens[0])
            visual = run.report.samples[0].visual_tokens
            assert visual == 0 or run.kept, "a sample with pictures was not pruned alone"
            for stage, own in zip(kept, run.kept, strict=False):
                assert torch.equal(stage[i], own[0])


@pytest.mark.parametrize(
    ("family", "attention", "method", "sample"),
    in_turn(tiny.FAMILIES, BACKENDS, WITHOUT_MERGING, [0, 1], slow_once=True),
    ids=label,
)
def test_oracle(family: str, attention: str, method: Method, sample: int) -> None:
    """A sparse run is a dense run in which later layers cannot see what was dropped: prefill and cached decoding."""
    prompt = batch(family, (sample,))
    built = model(family, attention)
    with sparsify(built, method) as run:
        tokens, logits, _ = generate(built, prompt)
        kept = [stage[0] for stage in run.kept]
        assert kept and len(kept[-1]) < run.report.samples[0].visual_tokens
    ids = torch.cat((prompt["input_ids"][0], tokens[0]))
    pictures = {k: v for k, v in prompt.items() if k not in ("input_ids", "attention_mask")}
    expected = oracle_logits(model(family), ids, kept, run.layers, **pictures)
    close(logits[0], expected[-NEW - 1 : -1])


@pytest.mark.parametrize(
    ("family", "attention", "name"), in_turn(tiny.FAMILIES, BACKENDS, tuple(METHODS), slow_once=True)
)
def test_keeping_everything_is_the_dense_model(family: str, attention: str, name: str) -> None:
    """Bit for bit: ``retain=1.0`` and a budget above the picture's size."""
    built, prompt = model(family, attention), batch(family)
    tokens, logits, _ = generate(built, prompt)
    for retain in (1.0,) if list(METHODS).index(name) % 3 else (1.0, 100_000):
        with sparsify(built, name, retain=retain) as run:
            again, sparse, _ = generate(built, prompt)
        assert torch.equal(logits, sparse) and torch.equal(tokens, again)
        assert run.kept == [] and {s.note.split(":")[0] for s in run.report.samples} == {"ran dense"}


def fingerprint(built: Any) -> dict[str, Any]:
    """Everything an installation could leave behind: hooks, configs, attributes, weights' identity."""
    found: dict[str, Any] = {}
    for name, module in built.named_modules():
        hooks = {k: len(v) for k, v in vars(module).items() if "hooks" in k and hasattr(v, "__len__")}
        attributes = {
            k: id(v)
            for k, v in vars(module).items()
            if not k.startswith("_") or k.startswith("__") or "sparsesight" in k
        }
        found[name] = (type(module), hooks, attributes, id(getattr(module, "config", None)))
    found["parameters"] = {k: (id(p), p._version) for k, p in built.named_parameters()}
    found["config"] = built.config.to_dict()
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_leaving_restores_the_model(family: str) -> None:
    built, prompt = model(family), batch(family)
    (_, logits, _), before = generate(built, prompt), fingerprint(built)
    with sparsify(built, retain=0.3):
        generate(built, prompt)
        assert fingerprint(built) != before, "the fingerprint sees nothing"
    assert fingerprint(built) == before
    assert torch.equal(generate(built, prompt)[1], logits)


class Broken(RuntimeError):
    pass


def raise_broken(*args: Any, **kwargs: Any) -> None:
    raise Broken


@pytest.mark.parametrize(
    "where", ["select_raters", "score", "select_from_scores", "attention", "layer", "body"]
)
def test_an_exception_leaves_nothing_behind(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built, prompt = model("llava"), batch("llava")
    (_, logits, _), before = generate(built, prompt), fingerprint(built)
    hook = None
    with pytest.raises(Broken), sparsify(built, "sparsevlm+", retain=0.3) as run:
        if where == "layer":
            hook = built.get_decoder().layers[4].register_forward_pre_hook(raise_broken)
        elif where == "attention":
            monkeypatch.setattr("sparsesight.hf.probe.mask_of_rows", raise_broken)
        elif where == "body":
            raise Broken
        else:
            monkeypatch.setattr(SparseVLMPlus, where, raise_broken)
        try:
            generate(built, prompt)
        finally:
            if hook is not None:
                hook.remove()
            # The failed forward is forgotten even while the handle stays installed.
            assert run._hooks.forward is None
            monkeypatch.undo()
            generate(built, prompt)
            assert run.kept
    assert fingerprint(built) == before
    assert torch.equal(generate(built, prompt)[1], logits)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_backends_keep_the_same_tokens(family: str) -> None:
    kept = {}
    for attention in BACKENDS:
        built = model(family, attention)
        with sparsify(built, retain=0.35) as run, torch.no_grad():
            built(**batch(family))
        kept[attention] = run.kept
    for attention in BACKENDS[1:]:
        for stage, reference in zip(kept[attention], kept["eager"], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, reference, strict=True))


@pytest.mark.parametrize(("method", "which"), in_turn(ALL, [(0,), (0, 1, 2, 3)]), ids=label)
def test_lengths_and_positions(method: Method, which: tuple[int, ...]) -> None:
    """KV lengths equal the report; the cache reports logical lengths; decoding goes on after the unpruned length."""
    built, prompt = model("llava"), batch("llava", which)
    seen: list[list[int]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if args[0].shape[1] == 1:
            seen.append(kwargs["position_ids"][:, 0].tolist())

    with sparsify(built, method) as run:
        hook = built.get_decoder().layers[-1].register_forward_pre_hook(note, with_kwargs=True)
        _, _, cache = generate(built, prompt)
        hook.remove()
        report = run.report
    stored = [layer.keys.shape[2] for layer in cache.layers]
    assert stored == [n + NEW - 1 for n in report.kv_lengths]
    length = prompt["input_ids"].shape[1]
    assert {layer.get_seq_length() for layer in cache.layers} == {length + NEW - 1}
    measured = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in cache.layers)
    assert measured * sum(report.kv_lengths) == report.kv_bytes_sparse * sum(stored)
    if method.positions == "original":
        real = prompt["attention_mask"].sum(1)
        assert seen == [(real + t).tolist() for t in range(NEW - 1)]


@pytest.mark.parametrize("method", ALL, ids=label)
def test_what_is_kept(method: Method) -> None:
    """Kept indices are sorted, unique, in range, nested, and of the promised count; text is never dropped."""
    built, prompt = model("llava"), batch("llava")
    with sparsify(built, method, trace=True) as run, torch.no_grad():
        built(**prompt)
    report = run.report
    for s, (step, stage) in enumerate(zip(run.trace, run.kept, strict=True)):
        text = prompt["attention_mask"].bool() & (prompt["input_ids"] != built.config.image_token_id)
        rows = step.rows
        for i, kept in enumerate(stage):
            assert torch.equal(kept, kept.unique()) and len(kept) <= report.samples[i].visual_tokens
            if s:
                assert set(kept.tolist()) <= set(run.kept[s - 1][i].tolist())
            if not method.recycled_fraction:
                assert len(kept) == report.samples[i].visual_per_layer[run.layers[s] + 1]
            left = rows.source[i][rows.valid[i] & ~rows.visual[i]]
            assert torch.equal(left, text[i].nonzero()[:, 0])


@pytest.mark.parametrize("method", ALL, ids=label)
def test_under_autocast(method: Method) -> None:
    """What is kept is chosen in fp32."""
    built = model("llava")
    prompt = batch("llava", (0, 1))
    with torch.autocast("cpu", torch.bfloat16), sparsify(built, method) as run:
        tokens, _, _ = generate(built, prompt)
    assert tokens.shape == (2, NEW)
    assert all(sample.equal_tokens < sample.visual_tokens for sample in run.report.samples)
