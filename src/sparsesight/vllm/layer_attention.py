"""What a pruning layer's attention shows to methods: the heads of all ranks, and the keys of earlier steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import ops
from ..core.stage import Attention
from ..core.step import TextRows
from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Rotary embeddings whose frequencies do not depend on the length of the prompt.
ROTARY = ("RotaryEmbedding", "Llama3RotaryEmbedding", "MRotaryEmbedding")


@dataclass(frozen=True)
class LayerFacts:
    """What does not change of a pruning layer's attention; heads are those of all tensor-parallel ranks."""

    heads: int
    kv_heads: int
    head_size: int
    scale: float
    softcap: float | None
    inv_freq: Tensor | None  # fp32 [f]; None without a rotary embedding
    rotary_axis: Tensor | None = None  # int64 [f]: position axis of each frequency; None if there is one axis
    gather: Callable[[Tensor], Tensor] | None = None  # puts [n, c] of each rank side by side, in their order

    @classmethod
    def of(cls, self_attn: Any) -> LayerFacts:
        """Of a decoder layer's attention module in vLLM."""
        attention = self_attn.attn
        rotary = getattr(self_attn, "rotary_emb", None)
        gather: Callable[[Tensor], Tensor] | None = None
        if attention.num_heads < self_attn.total_num_heads:
            from vllm import distributed

            gather = distributed.tensor_model_parallel_all_gather
        return cls(
            gather=gather,
            heads=self_attn.total_num_heads,
            kv_heads=self_attn.total_num_kv_heads,
            head_size=attention.head_size,
            scale=attention.impl.scale,
            softcap=getattr(attention.impl, "logits_soft_cap", None) or None,
            inv_freq=None if rotary is None else rotary._compute_inv_freq(rotary.base).float(),
            rotary_axis=rotary_axis(rotary),
        )

    def all_heads(self, own: Float[Tensor, "n hd"], heads: int) -> Float[Tensor, "n h d"]:
        """All ``heads`` of queries or keys, from those that this rank holds.

        Every rank gets the same, and so chooses the same: nothing of the choice is exchanged. Where there are more
        ranks than key heads, neighbours hold the same one.
        """
        every = own if self.gather is None else self.gather(own.contiguous())
        every = every.view(len(own), -1, self.head_size)
        return every[:, :: every.shape[1] // heads]


def rotary_axis(rotary: Any) -> Int[Tensor, " f"] | None:
    """Which of time, height and width each frequency of one of vLLM's rotary embeddings reads; None if not several.

    Axes have a section each, one after another, or take turns as long as their sections last, then time has the rest.
    """
    if not getattr(rotary, "mrope_section", None):
        return None
    sections = torch.tensor(rotary.mrope_section)
    if not rotary.mrope_interleaved:
        return torch.arange(len(sections)).repeat_interleave(sections)
    place = torch.arange(int(sections.sum()))
    turn = place % len(sections)
    return turn.where(place // len(sections) < sections[turn], 0)


@dataclass(frozen=True)
class Seen:
    """What a pruning layer's attention was given in a step.

    Attributes:
        query, key: after the rotary embedding, [n, hd] and [n, gd]; this rank's heads side by side.
        facts: of the layer.
        cached: of each prompt, keys that the layer holds of tokens that were computed in earlier steps, [m, gd].
    """

    query: Tensor
    key: Tensor
    facts: LayerFacts
    cached: Sequence[Tensor | None] = ()

    def attention(
        self, row: Int[Tensor, "b n"], valid: Bool[Tensor, "b n"], position: Int[Tensor, "... n"]
    ) -> Callable[[int, TextRows, Tensor], Attention]:
        """As :class:`.StageFacts` has it, of prompts with these rows of the step, padding on the left.

        Args:
            row: of the step.
            valid: False on padding.
            position: rotary positions of the step's rows, [n] or [axes, n].
        """
        facts, (b, n) = self.facts, row.shape
        key = self.key[row]
        past = max((len(x) for x in self.cached if x is not None), default=0)
        if past:
            earlier = key.new_zeros(b, past, key.shape[2])
            held = torch.zeros(b, past, dtype=torch.bool, device=key.device)
            for i, own in enumerate(self.cached):
                if own is not None:
                    earlier[i, past - len(own) :] = own.to(key.dtype)
                    held[i, past - len(own) :] = True
            key, valid = torch.cat((earlier, key), 1), torch.cat((held, valid), 1)
        keys = facts.all_heads(key.flatten(0, 1), facts.kv_heads).unflatten(0, (b, past + n)).transpose(1, 2)
        # Nobody asks where a cached key is: methods weigh visual tokens only, which are rows of this step.
        key_position = torch.nn.functional.pad(position[..., row], (past, 0))
        key_valid = valid if b > 1 else None  # a single prompt has no padding

        def attention(number: int, text: TextRows, column: Tensor) -> Attention:
            at = row.gather(1, text.column)
            query = facts.all_heads(self.query[at].flatten(0, 1), facts.heads).unflatten(0, at.shape)
            return Attention(
                query=query.transpose(1, 2),
                key=keys,
                mask=lambda rows: ops.causal_rows(text.column.gather(1, rows), past + n, past, key_valid),
                key_column=column + past,
                query_position=position[..., at],
                key_position=key_position,
                inv_freq=facts.inv_freq,
                rotary_axis=facts.rotary_axis,
                scale=facts.scale,
                softcap=facts.softcap,
            )

        return attention


def check_layer(layer: Any) -> None:
    """Refuse a decoder layer that the hooks would not fit.

    Raises:
        UnsupportedModelError: saying what is missing.
    """
    attention = getattr(getattr(layer, "self_attn", None), "attn", None)
    if attention is None:
        raise UnsupportedModelError(
            f"{type(layer).__name__}: sparsesight needs decoder layers with self_attn.attn; use a model "
            "whose language model is Llama, Mistral or Qwen"
        )
    if not hasattr(layer.self_attn, "total_num_heads") or not hasattr(layer.self_attn, "total_num_kv_heads"):
        raise UnsupportedModelError(
            f"{type(layer).__name__}: its attention does not say how many heads all ranks have (total_num_heads, "
            "total_num_kv_heads); use a model whose language model is Llama, Mistral or Qwen"
        )
    window = getattr(attention, "sliding_window", None)
    if window is not None and window > 0:
        raise UnsupportedModelError(
            f"{type(layer).__name__}: its attention has a window of {window} tokens, which would reach further once "
            "tokens are gone; use a model with full attention"
        )
    rotary: Any = getattr(layer.self_attn, "rotary_emb", None)
    name = type(rotary).__name__
    if name not in ROTARY:
        raise UnsupportedModelError(f"{name}: sparsesight in vLLM reads the positions of {', '.join(ROTARY)}")
    if name == "MRotaryEmbedding" and rotary.scaling_factor is not None:
        raise UnsupportedModelError(
            f"{name}: positions stretched by YaRN (factor {rotary.scaling_factor}) are not read in vLLM yet; leave "
            "the stretching out of --hf-overrides"
        )
