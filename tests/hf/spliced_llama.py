"""A stand-in for code bases that splice pictures into a stock Llama's embeddings, in their manner: no ids reach it.

Placeholders of id -200 in the prompt, a tower and a projector beside the language model, one function that turns ids,
labels and pictures into embeddings and labels, padded on the side that the config names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

IMAGE_TOKEN_INDEX, IGNORE_INDEX = -200, -100
SIDE, PATCH = 24, 4  # 36 visual tokens


class SplicedConfig(LlamaConfig):
    model_type = "llava_llama"


class Splicing:
    """What a language model needs besides itself."""

    config: Any
    model: Any
    tower: nn.Module

    def get_model(self) -> Any:
        return self.model

    def encode_images(self, images: Tensor) -> Tensor:
        """[k, 3, side, side] -> [k, tokens, c]."""
        return self.tower(images).flatten(2).transpose(1, 2)

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Tensor | None,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Ids, positions, attention, cache, embeddings and labels of the spliced prompt."""
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        features = iter(self.encode_images(images))
        present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        marks = torch.full_like(input_ids, IGNORE_INDEX) if labels is None else labels
        rows = []
        for ids, mark, real in zip(input_ids, marks, present.bool(), strict=True):
            ids, mark = ids[real], mark[real]
            embeds, spliced, begin = [], [], 0
            for end in [*(ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist(), len(ids)]:
                embeds.append(self.model.embed_tokens(ids[begin:end]))
                spliced.append(mark[begin:end])
                if end < len(ids):
                    embeds.append(next(features))
                    spliced.append(mark.new_full((len(embeds[-1]),), IGNORE_INDEX))
                begin = end + 1
            rows.append((torch.cat(embeds), torch.cat(spliced)))
        side = self.config.tokenizer_padding_side

        def pad(parts: list[Tensor], value: float) -> Tensor:
            return pad_sequence(parts, batch_first=True, padding_value=value, padding_side=side)

        joined, found = pad([e for e, _ in rows], 0.0), pad([m for _, m in rows], IGNORE_INDEX)
        real = pad([torch.ones(len(m), dtype=torch.long) for _, m in rows], 0)
        positions = (real.cumsum(1) - 1).clamp(min=0)
        return (
            None,
            None if position_ids is None else positions,
            None if attention_mask is None else real.to(attention_mask.dtype),
            past_key_values,
            joined,
            None if labels is None else found,
        )


class SplicedLlama(Splicing, LlamaForCausalLM):
    """As `LlavaLlamaForCausalLM` before anybody changed its `generate`."""

    config_class = SplicedConfig

    def __init__(self, config: SplicedConfig) -> None:
        super().__init__(config)
        self.tower = nn.Conv2d(3, config.hidden_size, PATCH, PATCH)
        self.post_init()


def spliced_llama(
    kind: type[SplicedLlama] = SplicedLlama, attention: str = "sdpa", side: str = "left"
) -> Any:
    """A tiny random model of the kind; the same weights every time."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = SplicedConfig(
        **sizes,
        vocab_size=50,
        initializer_range=0.3,
        tokenizer_padding_side=side,
        attn_implementation=attention,
    )
    model = kind(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def prompt(which: tuple[int, ...] = (0, 1, 2), side: str = "left") -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, attention mask and pictures of a batch: one picture; two, with text between; none."""
    image = IMAGE_TOKEN_INDEX
    texts = (
        [1, 7, 8, image, 9, 10, 11, 12],
        [1, image, 13, 14, image, 15, 16, 17, 18, 19, 20, 21],
        [1, 22, 23, 24, 25],
    )
    pictures = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    owner = torch.tensor([0, 1, 1])
    chosen = [torch.tensor(texts[i]) for i in which]
    ids = pad_sequence(chosen, batch_first=True, padding_value=0, padding_side=side)
    ones = [torch.ones(len(x), dtype=torch.long) for x in chosen]
    mask = pad_sequence(ones, batch_first=True, padding_value=0, padding_side=side)
    own = torch.cat([pictures[owner == i] for i in which])
    return ids, mask, own if len(own) else None
