"""Writes a random Qwen2-VL with a tokenizer and processor of its own into a folder, with transformers 4.57.

ov/bin/python benchmarks/peering/random_qwen2_vl.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

LAYERS, HIDDEN, FFN, HEADS = 12, 512, 1408, 8
TOWER = {"depth": 4, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += [f"<|{name}|>" for name in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")]
WORDS = "what is in the picture ? a red star left of a blue ring , how many are there"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(folder: Path) -> Qwen2TokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=SPECIAL)
    core.train_from_iterator([WORDS] * 50, trainer)
    model = json.loads(core.to_str())["model"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps(model["vocab"]))
    merges.write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    return Qwen2TokenizerFast(
        vocab_file=str(vocabulary),
        merges_file=str(merges),
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE,
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    words = tokenizer(folder)
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "im_end")}
    named = ("image", "video", "vision_start", "vision_end", "vision")
    tokens = {
        f"{name}_token_id": words.convert_tokens_to_ids(
            f"<|{name if name.startswith('vision_') else name + '_pad'}|>"
        )
        for name in named
    }
    ends = {"bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"]}
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS // 2,
            "vocab_size": -(-len(words) // 64) * 64,
            "max_position_embeddings": 8192,
            "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
            **ends,
        },
        vision_config={**TOWER, "hidden_size": HIDDEN},
        **tokens,
        **ends,
        pad_token_id=ids["endoftext"],
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).float().save_pretrained(folder)
    images = Qwen2VLImageProcessor(
        patch_size=TOWER["patch_size"], min_pixels=4 * 28**2, max_pixels=4096 * 28**2
    )
    whole = Qwen2VLProcessor(images, words, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE)
    whole.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
