"""Models that draft tokens beside pruning: the same answers as without, and drafts that are accepted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsesight import Random, SparseSightError, SparseVLM, SparseVLMPlus
from sparsesight.methods import Method
from sparsesight.vllm.drafts import LayerStates, check_drafter

from .engines import answers, by_transformers, loaded, prompt, pruner, questions, same, sampling

TOKENS = 16
SHARED = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SHARED += ("head_dim", "rms_norm_eps", "max_position_embeddings", "rope_parameters", "num_hidden_layers")


def write(kind: str, folder: Path) -> Path:
    """A drafter for the bundled model: its own decoder, or a head of one layer with random weights."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    model, processor = loaded()
    given = {name: getattr(model.config.text_config, name) for name in SHARED}
    if kind == "draft_model":
        draft = LlamaForCausalLM(LlamaConfig(**given))
        own = model.state_dict()
        weights = {
            name: own[name.replace("model.", "model.language_model.", 1)] for name in draft.state_dict()
        }
        draft.load_state_dict(weights)
    else:
        torch.manual_seed(0)
        draft = LlamaForCausalLM(LlamaConfig(**{**given, "num_hidden_layers": 1}, tie_word_embeddings=False))
    draft.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if kind != "draft_model":
        width = draft.config.hidden_size
        old = draft.state_dict()
        heads = {k.removeprefix("model."): x for k, x in old.items() if ".layers." in k}
        if kind == "eagle":
            del heads["layers.0.input_layernorm.weight"]
            heads["fc.weight"] = torch.eye(width).repeat(1, 2)
        else:
            heads = {k.replace("layers.0", "midlayer"): x for k, x in heads.items()}
            for part in ("q", "k", "v"):  # reads the token beside the hidden state
                name = f"midlayer.self_attn.{part}_proj.weight"
                heads[name] = heads[name].repeat(1, 2)
            heads |= {"midlayer.hidden_norm.weight": torch.ones(width), "norm.weight": torch.ones(width)}
            heads |= {"fc.weight": torch.eye(width).repeat(1, 3), "lm_head.weight": old["lm_head.weight"]}
        save_file({k: x.contiguous() for k, x in heads.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "kv_groups"),
    [
        ("draft_model", SparseVLMPlus(64), False),
        ("eagle", Random(64, (-1, 3)), False),
        ("eagle3", SparseVLM(64), False),
        ("eagle3", SparseVLMPlus(64), True),
    ],
    ids=str,
)
def test_drafts_change_no_answer(
    opened: Any, tmp_path: Path, kind: str, method: Method, kv_groups: bool
) -> None:
    # Questions of more than two blocks, of which an EAGLE head has the last one computed again.
    asked = [(picture, " ".join([question] * 10)) for picture, question in questions()[:3]]
    prompts, plain = [prompt(*x) for x in asked], by_transformers(method, asked, TOKENS)
    drafter = {"method": kind, "model": str(write(kind, tmp_path)), "num_speculative_tokens": 3}
    entry = {"sparsesight": {**method.to_dict(), "kv_groups": kv_groups}}
    llm = opened(
        method,
        speculative_config=drafter,
        additional_config=entry,
        enable_prefix_caching=True,
        disable_log_stats=False,
        enforce_eager=method.recycled_fraction == 0,  # one of them is compiled
    )
    for _ in range(2):  # the second time with keys from the cache
        same(answers(llm, prompts, sampling(TOKENS)), plain, 1e-3)
    assert pruner(llm).tally.pruned == len(prompts)
    for one, alone in zip(prompts[:2], plain, strict=False):
        same(answers(llm, [one], sampling(TOKENS)), [alone], 1e-3)
    numbers = {x.name: x.value for x in llm.get_metrics() if hasattr(x, "value")}
    assert numbers["vllm:spec_decode_num_drafts"] > 0
    if kind == "draft_model":
        assert numbers["vllm:spec_decode_num_accepted_tokens"] > 0


def test_a_draft_model_needs_one_block_table() -> None:
    def config(method: str | None) -> Any:
        return SimpleNamespace(speculative_config=method and SimpleNamespace(method=method))

    for method in (None, "eagle3", "ngram"):
        check_drafter(config(method), (-1, 3), kv_groups=True)
    check_drafter(config("draft_model"), (0, 3), kv_groups=False)
    for stages, kv_groups, words in (((-1, 3), False, "before the first layer"), ((0, 3), True, "kv_groups")):
        with pytest.raises(SparseSightError, match=words):
            check_drafter(config("draft_model"), stages, kv_groups)


def test_what_layers_give_is_at_the_length_of_the_step() -> None:
    class Decoder:
        aux_hidden_state_layers: tuple[int, ...] = (1, 2)

        def forward(self, x: Any) -> Any:
            return x, [x, x[[0, 3]] + 1, x[[3]] + 2]

    decoder = Decoder()
    states = LayerStates(decoder)
    states.begin()
    states.keep(torch.tensor([0, 3]))
    states.keep(torch.tensor([3]))
    _, found = decoder.forward(torch.ones(4, 1))
    assert [x.flatten().tolist() for x in found] == [[1, 1, 1, 1], [2, 0, 0, 2], [0, 0, 0, 3]]
    states.end()
    assert not vars(decoder) and not states.rows
    decoder.aux_hidden_state_layers = ()
    states.begin()
    assert "forward" not in vars(decoder)
