"""What a prefill makes of the dense model's answer, in one forward over prompt and answer (teacher forcing).

Greedy decoding says the dense answer exactly if every token of it is the most likely one after those before it. One
forward over prompt and answer tells all of that, and how far the distributions moved; the answer itself decides about
no visual token (:func:`sparsesight.prompt_ends`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...hf.model_parts import ModelParts
from ...hf.rope import is_plain
from ...hf.sparsify import prompt_ends

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TOP = 1024  # outcomes of the first token that are kept apart; the others count as one


@dataclass(frozen=True)
class DenseAnswer:
    """The dense model's greedy answer.

    Attributes:
        tokens: of the answer, int64 [m] on the CPU; with its end, if it came to it.
        log_probs: of each of them, float32 [m].
        first: ids of the most likely first tokens, int64 [k], ``k <= TOP``.
        first_log_probs: theirs, float32 [k].
        text: without special tokens.
    """

    tokens: Int[Tensor, "m"]
    log_probs: Float[Tensor, "m"]
    first: Int[Tensor, "k"]
    first_log_probs: Float[Tensor, "k"]
    text: str

    @classmethod
    def of(cls, tokens: Tensor, logits: Float[Tensor, "m vocabulary"], text: str) -> DenseAnswer:
        """From an answer's tokens and the logits that they were chosen from."""
        log_probs = logits.float().log_softmax(-1).cpu()
        first = log_probs[0].topk(min(TOP, log_probs.shape[1]))
        chosen = log_probs.gather(1, tokens.cpu()[:, None])[:, 0]
        return cls(tokens.cpu(), chosen, first.indices, first.values, text)


@dataclass(frozen=True)
class Forced:
    """What another prefill makes of a dense answer.

    Attributes:
        follows: whether greedy decoding would say it token by token.
        lost: mean over its tokens of what its log-probability lost, in nats.
        rank: of its first token, from 1.
        kl: Kullback-Leibler divergence of the first token, dense from this, in nats; outcomes beyond the dense model's
            ``TOP`` count as one, which can only make it smaller.
    """

    follows: bool
    lost: float
    rank: int
    kl: float


def forced(answer: DenseAnswer, logits: Float[Tensor, "m vocabulary"]) -> Forced:
    """Compare the logits of an answer's tokens with the dense model's."""
    log_probs = logits.float().log_softmax(-1).cpu()
    chosen = log_probs.gather(1, answer.tokens[:, None])[:, 0]
    first = log_probs[0]
    mine, dense = first[answer.first].double(), answer.first_log_probs.double()
    kl = (dense.exp() * (dense - mine)).sum()
    rest = [1 - x.exp().sum().clamp(max=1) for x in (dense, mine)]
    if len(answer.first) < len(first) and rest[0] > 0:
        kl = kl + rest[0] * (rest[0] / rest[1].clamp(min=1e-12)).log()
    return Forced(
        follows=bool((log_probs.argmax(-1) == answer.tokens).all()),
        lost=float((answer.log_probs - chosen).mean()),
        rank=int((first > first[answer.tokens[0]]).sum()) + 1,
        kl=max(float(kl), 0.0),
    )


def forced_logits(
    parts: ModelParts, inputs: Mapping[str, Any], answers: Sequence[Tensor]
) -> list[Float[Tensor, "m vocabulary"]]:
    """Logits of every token of each answer [m], from one forward over prompts and answers.

    Args:
        parts: of the model, sparsified or not.
        inputs: left-padded prompts, with ``attention_mask``.
        answers: token ids of each sample's answer, at least one.
    """
    ids = inputs["input_ids"]
    width, longest = ids.shape[1], max(map(len, answers))
    added = torch.zeros(len(ids), longest - 1, dtype=ids.dtype, device=ids.device)
    real = torch.zeros_like(added)
    for row, answer in enumerate(answers):  # the last token is predicted, and predicts nothing
        added[row, : len(answer) - 1] = answer[:-1].to(ids)
        real[row, : len(answer) - 1] = 1
    whole = {k: _as_long(v, longest - 1) if _per_token(v, ids) else v for k, v in inputs.items()}
    whole["input_ids"] = torch.cat((ids, added), 1)
    whole["attention_mask"] = torch.cat((inputs["attention_mask"], real.to(inputs["attention_mask"])), 1)
    if is_plain(parts.decoder):  # as generate() counts them: padding moves nothing
        whole["position_ids"] = (whole["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in inspect.signature(parts.model.forward).parameters:
        whole["logits_to_keep"] = longest
    with torch.inference_mode(), prompt_ends(parts.model, width):
        logits = parts.given(**whole, use_cache=True).logits[:, -longest:]
    return [x[: len(answer)] for x, answer in zip(logits, answers, strict=True)]


def _per_token(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape


def _as_long(value: Tensor, more: int) -> Tensor:
    return torch.nn.functional.pad(value, (0, more))
