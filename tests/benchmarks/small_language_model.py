"""A random language model in SmolLM2's place: the same make and prompts, small enough for tests."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sparsesight.scenes.questions import plural
from sparsesight.scenes.scenes import COLORS, LETTERS, SHAPES, SIZES

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>"]
ASKED = "What color is the shape object Is there a an How many objects are size letter on Where"
ANSWERED = "yes no top bottom left right of above below"
PLACED = "first second third fourth fifth one two three four five background middle"
WORDS = [*ASKED.split(), *ANSWERED.split(), *PLACED.split()]
NAMES = [*SHAPES, *(plural(shape) for shape in SHAPES), *COLORS, *SIZES, *LETTERS]
PLAIN = ["\n", "?", *"0123456789", "user", "assistant", "system"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token is a line break, a sign, a digit, or a word together with the blank before it."""
    words = [*SPECIAL, "<unk>", *PLAIN, *WORDS, *(f" {word}" for word in [*WORDS, *NAMES])]
    table = {word: index for index, word in enumerate(dict.fromkeys(words))}
    made = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\n| ?[^\W\d]+|\d| (?=\d)|[^\w\s]"), behavior="removed", invert=True
    )
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        unk_token="<unk>",
        pad_token=SPECIAL[2],
    )


def parts() -> dict[str, Any]:
    """The fields of `sparsesight.bundled.smol.base.Base`."""
    words = tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.weight.data.mul_(10)
    return {"state": model.state_dict(), "config": config, "tokenizer": words}
