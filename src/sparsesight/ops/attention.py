"""Raters, and the attention from text tokens to visual tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rows import chunks, gather_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num


def text_raters(
    visual: Float[Tensor, "b v c"],
    text: Float[Tensor, "b t c"],
    visual_mask: Bool[Tensor, "b v"],
    text_mask: Bool[Tensor, "b t"],
) -> Bool[Tensor, "b t"]:
    """Raters: the text tokens that match the picture (SparseVLM, arXiv:2410.04417, section 3.2).

    Every visual token distributes one vote over the text tokens by a softmax of raw dot products; a text token is a
    rater if its share, averaged over the visual tokens, is strictly above the mean share. If rounding leaves none (a
    single text token, equal tokens), all text tokens are raters.
    """
    # The softmax ignores what all text tokens have in common: without it, equal tokens tie exactly, not up to rounding.
    text = text.float()
    text = text - gather_rows(text, text_mask.int().argmax(1, keepdim=True))
    logits = text @ visual.float().transpose(1, 2)  # votes of one visual token stand in a column
    share = logits.masked_fill(~text_mask[..., None], -math.inf).softmax(1)
    share = share.masked_fill(~visual_mask[:, None], 0).sum(2)
    share = share / visual_mask.sum(1, keepdim=True).clamp(min=1)
    mean = share.masked_fill(~text_mask, 0).sum(1, keepdim=True) / text_mask.sum(1, keepdim=True).clamp(min=1)
    chosen = (share > mean) & text_mask
    return torch.where(chosen.any(1, keepdim=True), chosen, text_mask)


def attention_rows(
    query: Float[Tensor, "b h r d"],
    key: Float[Tensor, "b g k d"],
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "b h r k"]:
    """Softmax attention of selected query rows over all keys, in fp32; never an [n, n] matrix.

    Args:
        query: the selected rows, after the rotary embedding.
        key: all keys, after the rotary embedding; ``h`` is a multiple of ``g`` (grouped-query heads).
        mask: broadcastable to [b, h, r, k]; boolean (``True`` = may attend) or additive float.
        scale: multiplies the logits.
        softcap: optional ``softcap * tanh(logit / softcap)``.
    """
    b, h, r, d = query.shape
    g, k = key.shape[1], key.shape[2]
    # Scaled before the product, and in place after it: every pass over [b, h, r, k] costs more than its arithmetic.
    query = (query.float() * scale).reshape(b, g, h // g * r, d)
    logits = (query @ key.float().transpose(2, 3)).view(b, h, r, k)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mask is not None:
        if mask.dtype == torch.bool:
            logits.masked_fill_(~mask, torch.finfo(torch.float32).min)
        else:
            logits += mask.float()
    return logits.softmax(-1)


def head_sums(
    query: Float[Tensor, "b h r d"],
    key: Float[Tensor, "b g k d"],
    mask: Tensor | None,
    rater: Bool[Tensor, "b r"],
    scale: float,
    softcap: float | None = None,
    divisor: Float[Tensor, "b r k"] | None = None,
) -> Float[Tensor, "b h k"]:
    """Attention each key receives per head, summed over the raters; rows are processed in bounded chunks.

    ``divisor`` divides the softmaxed attention of every (rater, key) pair, as SparseVLM+ does with the rotary weight.
    """
    total = query.new_zeros(query.shape[0], query.shape[1], key.shape[2], dtype=torch.float32)
    # What does not rate asks for nothing in particular, and is divided by infinity: no pass over [b, h, r, k] for it.
    query = query.masked_fill(~rater[:, None, :, None], 0)
    weight = total.new_ones(*rater.shape, 1) if divisor is None else divisor
    weight = weight.masked_fill(~rater[..., None], math.inf)
    for rows, attention in _row_chunks(query, key, mask, scale, softcap):
        total += attention.div_(weight[:, None, rows]).sum(2)
    return total


def head_mean(
    query: Float[Tensor, "b h r d"],
    key: Float[Tensor, "b g k d"],
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "b r k"]:
    """Attention of every row averaged over heads: the raters-by-keys matrix whose rank SparseVLM v1.0 uses."""
    chunks = _row_chunks(query, key, mask, scale, softcap)
    return torch.cat([attention.mean(1) for _, attention in chunks], 1)


def _row_chunks(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Iterator[tuple[slice, Tensor]]:
    """:func:`attention_rows` for a bounded number of rows at a time, with their row indices."""
    for rows in chunks(query.shape[2]):
        part = mask if mask is None or mask.shape[-2] == 1 else mask[..., rows, :]
        yield rows, attention_rows(query[:, :, rows], key, part, scale, softcap)


def select_heads(
    received: Float[Tensor, "b h v"], visual: Bool[Tensor, "b v"], count: int
) -> tuple[Int[Tensor, "b q"], Float[Tensor, "b v"]]:
    """The ``count`` heads whose attention to the visual tokens sums highest, best first, and the mean over them.

    Ties go to the lower head index.
    """
    received = received.masked_fill(~visual[:, None], 0)
    heads = received.sum(2).argsort(dim=1, descending=True, stable=True)[:, :count]
    return heads, gather_rows(received, heads).mean(1)


def rope_weight(
    query_position: Num[Tensor, "... r"],
    key_position: Num[Tensor, "... k"],
    inv_freq: Float[Tensor, " f"],
    head_dim: int,
    axis: Int[Tensor, " f"] | None = None,
) -> Float[Tensor, "b r k"]:
    """The part of a logit that the rotary embedding alone contributes (SparseVLM+ divides it out).

    ``w(r, j) = <R_r 1, R_j 1> / sqrt(d)`` for the all-ones head vector, in closed form
    ``(2 * sum_i cos((p_r - p_j) * theta_i) + (d - 2 f)) / sqrt(d)``; it never depends on how a model lays out its
    rotary pairs. The last term is the unrotated rest of a partial rotary embedding and is zero otherwise.

    Multi-axis rotary (mrope): pass positions [axes, b, r] and [axes, b, k] and ``axis`` [f], the axis that each
    frequency reads; ``w`` then measures distance in time, height and width at once, as the attention itself does.

    Args:
        query_position: [b, r], or [axes, b, r]; positions, any padding on the left.
        key_position: [b, k], or [axes, b, k].
        inv_freq: the ``f`` rotary frequencies ``theta_i``.
        head_dim: full head width ``d``.
        axis: which axis each frequency reads; needed with multi-axis positions.
    """
    # Distances are what counts, and small angles lose fewer digits; :func:`compact` leaves the last query no padding.
    start = query_position[..., -1:]

    def rotation(position: Tensor) -> Tensor:
        offset = (position - start).float()
        offset = offset[axis].permute(1, 2, 0) if axis is not None else offset[..., None]
        angle = offset * inv_freq.float()
        return torch.cat((angle.cos(), angle.sin()), -1)

    keys = rotation(key_position).transpose(1, 2)
    rows = chunks(query_position.shape[-1])  # as attention has them, see `HostCount.read`
    pairs = torch.cat([rotation(query_position[..., part]) @ keys for part in rows], 1)
    return (2 * pairs + (head_dim - 2 * inv_freq.shape[0])) / math.sqrt(head_dim)


def attention_rank(
    attention: Float[Tensor, "b r v"], rater: Bool[Tensor, "b r"], visual: Bool[Tensor, "b v"]
) -> Int[Tensor, " b"]:
    """Numerical rank of the raters-by-visual matrix, the sparsity signal of SparseVLM v1.0 (section 3.3).

    Singular values count above ``max(raters, visual) * eps_fp32 * sigma_max``. They are computed in fp64, so that
    padding, which adds none, cannot move one across the threshold.
    """
    matrix = attention.double().masked_fill(~(rater[..., None] & visual[:, None]), 0)
    sigma = torch.linalg.svdvals(matrix)
    size = torch.maximum(rater.sum(1), visual.sum(1)).double()
    bound = size * torch.finfo(torch.float32).eps * sigma[:, 0]
    return (sigma > bound[:, None]).sum(1)


def rank_rule(
    rank: Int[Tensor, " b"], visual: Int[Tensor, " b"], scale: float, bias: float
) -> Int[Tensor, " b"]:
    """Tokens to keep by SparseVLM v1.0: ``int(rank * scale + bias)``, at most ``visual - 1``; all if the rank is full.

    Zero is possible, as published.
    """
    keep = (rank.double() * scale + bias).trunc().long().clamp(min=0)
    return torch.where(rank == visual, visual, torch.minimum(keep, visual - 1))
