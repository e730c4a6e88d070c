"""What people do to a model while it is sparsified: copy, pickle, save, set its attention, adapt, quantise, offload."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.test_invariants import BACKENDS, batch, close, generate, model
from tests.hf.threads import wrong_in_threads
from tests.in_turn import in_turn


def plain_state(built: Any) -> dict[str, Any]:
    """What is ours on a model, by name; empty if it is plain."""
    found = {}
    for name, module in built.named_modules():
        hooks = [
            h
            for k, v in vars(module).items()
            if k.startswith("_forward") and hasattr(v, "values")
            for h in v.values()
        ]
        ours = [h for h in hooks if "sparsesight" in repr(h)]
        names = [k for k in vars(module) if "sparsesight" in k or k in ("generate", "__getstate__")]
        implementation = str.__str__(
            getattr(getattr(module, "config", None), "_attn_implementation", None) or ""
        )
        if ours or names or "sparsesight" in implementation:
            found[name] = (ours, names, implementation)
    return found


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_the_plain_model(how: str) -> None:
    """It runs dense, has nothing of ours on it, and can be sparsified by itself.

    (Once a model has run, transformers leaves hooks on its vision tower that cannot be pickled, with or without us.)
    """
    built, prompt = tiny.model("llava"), batch("llava", (0,))
    dense = generate(tiny.model("llava"), prompt)[1]
    with sparsify(built, "sparsevlm+", retain=0.4):
        if how == "deepcopy":
            generate(built, prompt)
        assert plain_state(built), "the search finds nothing"
        if how == "deepcopy":
            copied = copy.deepcopy(built)
        elif how == "pickle":
            copied = pickle.loads(pickle.dumps(built))
        else:
            file = io.BytesIO()
            torch.save(built, file)
            assert b"sparsesight" not in file.getvalue()
            file.seek(0)
            copied = torch.load(file, weights_only=False)
        assert not plain_state(copied)
        sparse = generate(built, prompt)[1]
        assert torch.equal(generate(copied, prompt)[1], dense) and not torch.equal(sparse, dense)
        assert torch.equal(generate(built, prompt)[1], sparse)  # the original goes on
        with sparsify(copied, "sparsevlm+", retain=0.4):
            assert torch.equal(generate(copied, prompt)[1], sparse)
    assert not plain_state(built)
    assert torch.equal(generate(copied, prompt)[1], dense)


def test_a_copied_part_is_plain() -> None:
    built = tiny.model("llava")
    with sparsify(built, "sparsevlm+", retain=0.4):
        assert not plain_state(copy.deepcopy(built.get_decoder()))
        assert not plain_state(copy.deepcopy(built.get_decoder().layers[3]))


def test_saving_writes_what_it_writes_without_us(tmp_path: Path) -> None:
    built = tiny.model("llava")
    built.save_pretrained(tmp_path / "before")
    with sparsify(built, "sparsevlm+", retain=0.4):
        generate(built, batch("llava", (0,)))
        keys = list(built.state_dict())
        built.save_pretrained(tmp_path / "while")
    assert keys == list(built.state_dict())
    names = sorted(p.name for p in (tmp_path / "before").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "while").iterdir())
    for name in names:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "while" / name).read_bytes()
    again = type(built).from_pretrained(tmp_path / "while").eval()
    assert not plain_state(again)


@pytest.mark.parametrize(("first", "second"), in_turn(BACKENDS, [*BACKENDS[1:], BACKENDS[0]]))
def test_attention_set_while_installed(first: str, second: str) -> None:
    """The next forward goes along: masks, pruning layers and all; restoring gives the attention that was set."""
    prompt = batch("llava")
    with sparsify(model("llava", second), "sparsevlm+", retain=0.4) as run:
        _, expected, _ = generate(model("llava", second), prompt)
        kept = run.kept
    built = tiny.model("llava", first)
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        generate(built, prompt)
        built.set_attn_implementation(second)
        _, logits, _ = generate(built, prompt)
        assert torch.equal(logits, expected)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
    assert not plain_state(built)
    dense = tiny.model("llava", second)
    assert torch.equal(generate(built, prompt)[1], generate(dense, prompt)[1])


def test_attention_that_cannot_be_pruned_is_refused_when_set() -> None:
    built, prompt = tiny.model("llava"), batch("llava", (0,))
    with sparsify(built, "sparsevlm+", retain=0.4):
        expected = generate(built, prompt)[1]
        built.set_attn_implementation({"text_config": "paged|eager"})
        with (
            pytest.raises(UnsupportedModelError, match=r"attn_implementation='paged\|eager'"),
            torch.no_grad(),
        ):
            built(**prompt)
        built.set_attn_implementation("sdpa")
        assert torch.equal(generate(built, prompt)[1], expected)
        with pytest.raises(UnsupportedModelError, match="PagedCache"), torch.no_grad():
            built(**prompt, use_cache=False, cache=type("PagedCache", (), {})())
        with pytest.raises(UnsupportedModelError, match="cache_implementation='paged'"):
            built.generate(**prompt, cache_implementation="paged")


def test_threads_generating_on_one_model() -> None:
    """One decodes with a cache, one without, one looks its prompt up: each knows its own prompt's end."""
    built = tiny.model("llava")
    prompts = [batch("llava", (i,)) for i in (0, 1, 3, 2)]
    ways: list[dict[str, Any]] = [{}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}, {}]
    how = {"do_sample": False, "max_new_tokens": 5}
    with sparsify(built, "sparsevlm+", retain=0.4):
        expected = [built.generate(**prompt, **how) for prompt in prompts]

        def works(i: int) -> bool:
            return torch.equal(built.generate(**prompts[i], **how, **ways[i]), expected[i])

        assert not wrong_in_threads(range(4), works, 4, 1e-4)


class HalvedWeight(torch.nn.Linear):
    """Stands in for quantised linears: another class, a weight of another dtype, its own forward."""

    @classmethod
    def of(cls, linear: torch.nn.Linear) -> HalvedWeight:
        made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        made.weight = torch.nn.Parameter(
            (linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False
        )
        made.scale = torch.nn.Parameter(scale, requires_grad=False)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight.dtype == torch.int8
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


@pytest.mark.parametrize("when", ["before", "after"])
def test_quantised_linears(when: str) -> None:
    """Decoder weights of int8: the sparse run is that of the model with the same weights in fp32."""

    def quantise(built: Any) -> None:
        for layer in built.get_decoder().layers:
            for part in (layer.self_attn, layer.mlp):
                for name, linear in list(part.named_children()):
                    if isinstance(linear, torch.nn.Linear):
                        setattr(part, name, HalvedWeight.of(linear))

    built, rounded, prompt = tiny.model("llava"), tiny.model("llava"), batch("llava")
    quantise(rounded)
    for layer, source in zip(built.get_decoder().layers, rounded.get_decoder().layers, strict=True):
        for part in ("self_attn", "mlp"):
            for name, linear in getattr(layer, part).named_children():
                if isinstance(linear, torch.nn.Linear):
                    other = getattr(getattr(source, part), name)
                    linear.weight.data.copy_(other.weight * other.scale)
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        expected, kept = generate(built, prompt)[1], run.kept
    quantised = tiny.model("llava")
    if when == "before":
        quantise(quantised)
    with sparsify(quantised, "sparsevlm+", retain=0.4) as run:
        if when == "after":
            quantise(quantised)
        close(generate(quantised, prompt)[1], expected)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
        assert run.report.kv_bytes_sparse == sum(run.report.kv_lengths) * 4 * 2 * 2 * 16 * 4


def test_weights_quantised_by_torchao() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model, prompt = tiny.model("llava"), batch("llava")
    quantization.quantize_(model.get_decoder(), quantization.Int8WeightOnlyConfig())
    dense = generate(model, prompt)[1]
    with sparsify(model, retain=1.0):
        assert torch.equal(generate(model, prompt)[1], dense)
    with sparsify(model, "sparsevlm+", retain=0.4) as run:
        sparse = generate(model, prompt)[1]
    assert run.kept and not torch.equal(sparse, dense)
    exact = tiny.model("llava")
    with torch.no_grad():
        state = model.state_dict()
        for name, weight in exact.named_parameters():
            weight.copy_(state[name].dequantize() if hasattr(state[name], "qdata") else state[name])
    with sparsify(exact, "sparsevlm+", retain=0.4) as other:
        close(generate(exact, prompt)[1], sparse)
    for stage, same in zip(run.kept, other.kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(stage, same, strict=True))
