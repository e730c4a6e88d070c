"""What people put around a model, or record of it: it works on what is inside, or is refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.exc import Unsupported
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import LlavaModel, LlavaPreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification

from sparsesight import UnsupportedModelError, restore, sparsify, visual_tokens
from tests.hf import tiny
from tests.hf.test_invariants import batch, close

LAYERS: dict[str, Any] = {"retain": 0.6, "layers": (0, 1)}


def small() -> Any:
    return tiny.model("llava", num_hidden_layers=3)


@pytest.fixture(scope="module")
def prompt() -> Any:
    return batch("llava", (0, 1))


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def logits(built: Any, prompt: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = built(**prompt).logits
    return out


# -- around a model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [DistributedDataParallel, DataParallel])
@pytest.mark.parametrize("given", ["wrapper", "model"])
def test_wrappers_that_call_the_model(wrapper: Any, given: str, prompt: Any, group: None) -> None:
    built = small()
    dense = logits(built, prompt)
    with sparsify(built, **LAYERS):
        expected = logits(built, prompt)
    wrapped = wrapper(built)
    with sparsify(wrapped if given == "wrapper" else built, **LAYERS) as run:
        assert torch.equal(logits(wrapped, prompt), expected) and run.kept
        assert run.model is built
        with visual_tokens(wrapped, None):
            logits(wrapped, prompt)
    assert torch.equal(logits(wrapped, prompt), dense)
    handle = sparsify(wrapped, **LAYERS)
    restore(wrapped)
    assert torch.equal(logits(wrapped, prompt), dense)
    handle.restore()


def test_training_in_distributed_data_parallel(prompt: Any, group: None) -> None:
    built = small()
    wrapped = DistributedDataParallel(built)
    labels = torch.full_like(prompt["input_ids"], -100)
    labels[:, -3:] = prompt["input_ids"][:, -3:]
    with sparsify(wrapped, **LAYERS):
        wrapped(**prompt, labels=labels).loss.backward()
    grads = {k: p.grad for k, p in built.named_parameters() if p.grad is not None}
    other = small()
    with sparsify(other, **LAYERS):
        other(**prompt, labels=labels).loss.backward()
    for key, weight in other.named_parameters():
        if weight.grad is not None:
            close(grads[key], weight.grad)


def sharded() -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    built = small()
    fully_shard(built.get_decoder().layers[1], mesh=init_device_mesh("cpu", (1,)))
    return built


def several_devices() -> Any:
    wrapped = DataParallel(small())
    wrapped.device_ids = [0, 1]
    return wrapped


def compiled_in_place(what: str) -> Any:
    built = small()
    if what == "forward":
        built.forward = torch.compile(built.forward, fullgraph=True, backend="eager")
    else:
        module = built if what == "model" else built.get_decoder().layers[1]
        module.compile(fullgraph=True, backend="eager")
    return built


class Engine(torch.nn.Module):
    """As those of training frameworks."""

    def __init__(self) -> None:
        super().__init__()
        self.module = small()


REFUSED = {
    "FSDP": (sharded, r"its weights are sharded \(FSDP\)"),
    "DataParallel": (several_devices, "copies the model to 2 devices"),
    "engine": (Engine, r"model=Engine: this wrapper is not known; pass the model inside, its \.module"),
    "fullgraph": (
        lambda: torch.compile(small(), fullgraph=True, backend="eager"),
        "fullgraph=True allows no cut",
    ),
    "compile(fullgraph=True)": (lambda: compiled_in_place("model"), "Llava.*: fullgraph=True allows no cut"),
    "compile(fullgraph=True) of a layer": (
        lambda: compiled_in_place("layer"),
        "LlamaDecoderLayer: fullgraph=True allows no cut",
    ),
    "forward compiled": (lambda: compiled_in_place("forward"), "Llava.*: fullgraph=True allows no cut"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrappers_that_are_refused(name: str, group: None) -> None:
    build, message = REFUSED[name]
    built = build()
    with pytest.raises(UnsupportedModelError, match=message):
        sparsify(built, **LAYERS)
    assert not any("_sparsesight" in str(vars(module).keys()) for module in built.modules())


# -- recorded or packed -------------------------------------------------------------------------------------------


def test_recordings_are_refused(prompt: Any) -> None:
    """They would keep the tokens of this prompt for every other one."""
    built = small()
    dense, given = logits(built, prompt), dict(prompt)

    class Traced(torch.nn.Module):
        def __init__(self, inside: Any) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inside(**dict(zip(given, values, strict=True))).logits
            return out

    class Decoder(torch.nn.Module):
        def __init__(self, inside: Any) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inside(inputs_embeds=x, use_cache=False).last_hidden_state
            return out

    sentence = r"torch\.jit\.trace, torch\.export: which tokens stay is decided prompt by prompt"
    values = tuple(given.values())
    with sparsify(built, **LAYERS), torch.no_grad():
        with pytest.raises(UnsupportedModelError, match=sentence):
            torch.jit.trace(Traced(built), values)
        with pytest.raises(UnsupportedModelError, match=sentence):
            torch.jit.trace(Decoder(built.get_decoder()), (torch.randn(1, 9, 64),))
        with pytest.raises(UnsupportedModelError, match=sentence):
            torch.export.export(Traced(built), values, strict=False)
        with pytest.raises(Unsupported, match=r"SparseSight drops tokens between decoder layers"):
            torch.export.export(Traced(built), values, strict=True)
        assert not torch.equal(logits(built, prompt), dense)  # it goes on
    assert torch.equal(logits(built, prompt), dense)


def test_a_graph_that_may_not_be_cut_is_refused_at_once() -> None:
    built = small()
    with sparsify(built, **LAYERS):
        for module in (built, built.model, built.get_decoder(), *built.get_decoder().layers):
            with pytest.raises(
                UnsupportedModelError, match=r"^model=.*use torch\.compile\(model\) without fullgraph"
            ):
                module.compile(fullgraph=True, backend="eager")
    assert not any("compile" in vars(module) for module in built.modules())


@pytest.mark.slow
def test_a_graph_that_may_not_be_cut_is_the_reason_in_the_compilers_own_error(prompt: Any) -> None:
    """Where it is not known before."""
    torch.compiler.reset()
    built = small()
    with sparsify(built, **LAYERS):
        whole = torch.compile(built, fullgraph=True, backend="eager")
        with pytest.raises(Unsupported, match=r"use torch\.compile\(model\) without fullgraph"):
            logits(whole, prompt)
        built.compile(backend="eager")
        assert logits(built, prompt).isfinite().all()
    assert not any("compile" in vars(module) for module in built.modules())
    torch.compiler.reset()


def test_continuous_batching_is_refused() -> None:
    built = small()
    with sparsify(built, **LAYERS):
        with pytest.raises(UnsupportedModelError, match="continuous batching packs prompts"):
            built.generate_batch([[5, 6, 7]])
        with (
            pytest.raises(UnsupportedModelError, match="continuous batching packs prompts"),
            built.continuous_batching_context_manager(),
        ):
            pass
    assert "init_continuous_batching" not in vars(built)


# -- other heads --------------------------------------------------------------------------------------------------


class LlavaForSequenceClassification(GenericForSequenceClassification, LlavaPreTrainedModel):
    """As reward models and classifiers are made of a vision-language model: one row of scores for the last token."""


def test_a_reward_head_reads_the_last_token_of_the_sparse_run(prompt: Any) -> None:
    built = small()
    built.config.num_labels = 3
    built.config.text_config.pad_token_id = 0
    head = LlavaForSequenceClassification(built.config).eval()
    assert isinstance(head.model, LlavaModel)
    head.model.load_state_dict(built.model.state_dict())
    dense = logits(head, prompt)
    with sparsify(built, **LAYERS) as run, torch.no_grad():
        hidden = built(**prompt, output_hidden_states=True).hidden_states[-1][:, -1]
        kept = run.kept
    with sparsify(head, **LAYERS) as run:
        scores = logits(head, prompt)
        with torch.no_grad():
            loss = head(**prompt, labels=torch.tensor([0, 2])).loss
    close(scores, head.score(hidden).detach())
    assert loss.isfinite() and not torch.allclose(scores, dense, atol=1e-3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, run.kept, strict=True))
    assert torch.equal(logits(head, prompt), dense)
