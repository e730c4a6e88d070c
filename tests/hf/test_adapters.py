"""PEFT adapters and accelerate's hooks, put on before or after, taken off while sparsified; each skips where absent."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from packaging.version import Version
from transformers.integrations import peft as transformers_peft

from sparsesight import UnsupportedModelError, sparsify
from tests.hf import tiny
from tests.hf.test_installed import plain_state
from tests.hf.test_invariants import batch, close, fingerprint, generate
from tests.in_turn import in_turn


def lora(built: Any) -> Any:
    """The model in PEFT's wrapper, with an adapter that does something."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(11)
    targets = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    adapted = peft.get_peft_model(
        built, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    ).eval()
    adapted.generation_config.eos_token_id = None
    return adapted


@functools.lru_cache(maxsize=1)
def expected() -> tuple[torch.Tensor, torch.Tensor, list[list[torch.Tensor]]]:
    """Dense and sparse logits of the model with its adapter merged: a plain model."""
    merged, prompt = lora(tiny.model("llava")).merge_and_unload(), batch("llava")
    dense = generate(merged, prompt)[1]
    with sparsify(merged, "sparsevlm+", retain=0.4) as run:
        return dense, generate(merged, prompt)[1], run.kept


def check(run: Any, logits: torch.Tensor) -> None:
    close(logits, expected()[1])
    for stage, other in zip(run.kept, expected()[2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))


@pytest.mark.parametrize("given", ["wrapper", "model"])
def test_adapter_loaded_before(given: str) -> None:
    built, prompt = tiny.model("llava"), batch("llava")
    adapted = lora(built)
    close(generate(adapted, prompt)[1], expected()[0])
    before = fingerprint(built)
    with sparsify(adapted if given == "wrapper" else built, "sparsevlm+", retain=0.4) as run:
        logits = generate(adapted, prompt)[1]
        check(run, logits)
        with torch.no_grad():
            plain = adapted(
                **prompt
            ).logits  # PEFT calls the model's forward, past the hooks of its outermost module
        close(plain[:, -1], logits[:, 0])
        assert torch.equal(
            adapted.generate(**prompt, max_new_tokens=3, do_sample=False),
            adapted.generate(**prompt, max_new_tokens=3, do_sample=False, use_cache=False),
        )
    assert not plain_state(adapted) and fingerprint(built) == before
    close(generate(adapted, prompt)[1], expected()[0])


def test_adapter_loaded_after() -> None:
    built, prompt = tiny.model("llava"), batch("llava")
    pytest.importorskip("peft")
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        adapted = lora(built)
        check(run, generate(adapted, prompt)[1])
        with adapted.disable_adapter():
            without = generate(adapted, prompt)[1]
        merged = adapted.merge_and_unload()
        check(run, generate(merged, prompt)[1])
    assert not plain_state(built)
    plain = tiny.model("llava")
    with sparsify(plain, "sparsevlm+", retain=0.4):
        close(without, generate(plain, prompt)[1])


def test_adapter_through_transformers_itself() -> None:
    """``model.add_adapter``: no wrapper, layers are replaced in place."""
    peft = pytest.importorskip("peft")
    needed = getattr(transformers_peft, "MIN_PEFT_VERSION", "0")
    if Version(peft.__version__) < Version(needed):
        pytest.skip(f"this transformers adds no adapters of a peft before {needed}")
    built, prompt = tiny.model("llava"), batch("llava", (0,))
    with sparsify(built, "sparsevlm+", retain=0.4):
        without = generate(built, prompt)[1]
        targets = r".*language_model.*\.(q_proj|v_proj)"
        built.add_adapter(peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        built.eval()
        inside = generate(built, prompt)[1]
    assert not torch.equal(inside, without)
    with sparsify(built, "sparsevlm+", retain=0.4):
        assert torch.equal(generate(built, prompt)[1], inside)


def test_adapter_is_trained_and_saved(tmp_path: Any) -> None:
    """Gradients reach the adapter alone; its checkpoint holds nothing of ours."""
    built, prompt = tiny.model("llava"), batch("llava", (0,))
    adapted = lora(built).train()
    answers = prompt["input_ids"].clone()
    answers[:, :-4] = -100
    with sparsify(adapted, "sparsevlm+", retain=0.4):
        adapted(**prompt, labels=answers).loss.backward()
        adapted.save_pretrained(tmp_path)
    grads = {k for k, p in adapted.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert grads and all("lora_" in k for k in grads)
    assert all(b"sparsesight" not in p.read_bytes() for p in tmp_path.iterdir() if p.is_file())


def test_virtual_tokens_are_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, num_attention_heads=4, num_layers=7,
                                     token_dim=64)  # fmt: skip
    adapted = peft.get_peft_model(tiny.model("llava"), config)
    with pytest.raises(UnsupportedModelError, match="prompt learning"):
        sparsify(adapted, "sparsevlm+", retain=0.4)


# -- accelerate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "when"), in_turn(["cpu_offload", "device_map", "disk_offload"], ["before", "after"])
)
def test_weights_that_are_elsewhere(how: str, when: str, tmp_path: Any) -> None:
    """Weights on the meta device, fetched for each module's forward by hooks that wrap it."""
    accelerate = pytest.importorskip("accelerate")
    built, prompt = tiny.model("llava"), batch("llava")
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        _, logits, _ = generate(built, prompt)
        kept = run.kept

    def dispatch(built: Any) -> None:
        if how == "cpu_offload":
            accelerate.cpu_offload(built, execution_device=torch.device("cpu"))
        elif how == "disk_offload":
            accelerate.disk_offload(built, str(tmp_path), execution_device=torch.device("cpu"))
        else:
            places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
            places |= {"model.language_model.embed_tokens": "cpu", "model.language_model.norm": "cpu"}
            places |= {"model.language_model.rotary_emb": "cpu"}
            places |= {
                f"model.language_model.layers.{i}": "cpu" if i < 4 else "disk" for i in range(tiny.LAYERS)
            }
            accelerate.dispatch_model(
                built, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
            )

    if when == "before":
        dispatch(built)
    with sparsify(built, "sparsevlm+", retain=0.4) as run:
        if when == "after":
            dispatch(built)
        assert any(p.device.type == "meta" for p in built.parameters())
        _, again, _ = generate(built, prompt)
        assert torch.equal(again, logits)
        for stage, other in zip(kept, run.kept, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(stage, other, strict=True))
        assert run.report.kv_bytes_sparse > 0
    assert not plain_state(built)
    dense = generate(tiny.model("llava"), prompt)[1]
    assert torch.equal(generate(built, prompt)[1], dense)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_layers_on_two_devices() -> None:
    accelerate = pytest.importorskip("accelerate")
    built, prompt = tiny.model("llava").to("cuda:0"), {k: v.to("cuda:0") for k, v in batch("llava").items()}
    with sparsify(built, "sparsevlm+", retain=0.4):
        _, logits, _ = generate(built, prompt)
    places = {"model.vision_tower": 0, "model.multi_modal_projector": 0, "lm_head": 1}
    places |= {f"model.language_model.{n}": 0 for n in ("embed_tokens", "norm", "rotary_emb")}
    places |= {f"model.language_model.layers.{i}": int(i > 3) for i in range(tiny.LAYERS)}
    accelerate.dispatch_model(built, places)
    with sparsify(built, "sparsevlm+", retain=0.4):
        close(generate(built, prompt)[1], logits)
