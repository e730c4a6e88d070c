"""The cost of each sample's prefill as JSON-ready numbers, stored beside its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from ..core.budget import cached_tokens
from ..hf.prompt.inputs import among
from ..hf.sparsified import Sparsified
from ..macs import DecoderShape
from ..report import Report, SampleReport


class SampleCost(TypedDict):
    """One sample's prefill, counted as if it were alone: the padding of its batch is not in it.

    ``kept`` are the visual tokens, merged ones included, that leave each stage; it is empty, and ``note`` says why, if
    the sample ran dense although a method was in use. MACs are multiply-adds (``sparsesight.macs``).
    """

    visual_tokens: int
    text_tokens: int
    equal_tokens: float
    equal_tokens_entering: float
    macs_dense: int
    macs_sparse: int
    macs_scoring: int
    kv_bytes_dense: int
    kv_bytes_sparse: int
    kept: list[int]
    note: str


def dense_cost(shape: DecoderShape, visual: int, text: int) -> SampleCost:
    """Of a prefill of ``visual`` + ``text`` tokens in which every layer sees all of them."""
    count = len(shape.layers)
    macs = shape.prefill_macs([visual + text] * count)
    held = _kv_bytes(shape, [visual + text] * count)
    return SampleCost(
        visual_tokens=visual,
        text_tokens=text,
        equal_tokens=float(visual),
        equal_tokens_entering=float(visual),
        macs_dense=macs,
        macs_sparse=macs,
        macs_scoring=0,
        kv_bytes_dense=held,
        kv_bytes_sparse=held,
        kept=[],
        note="",
    )


def batch_costs(
    shape: DecoderShape, visual_ids: tuple[int, ...], inputs: Any, run: Sparsified | None, beams: int = 1
) -> list[SampleCost]:
    """Of every sample of a batch that was just prefilled.

    Args:
        shape: of the decoder.
        visual_ids: placeholders of the model.
        inputs: the batch's ``input_ids`` and ``attention_mask``.
        run: the sparsification in use; None for a dense model.
        beams: rows that ``generate()`` made of a sample.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = (among(ids, visual_ids) & mask).sum(1).tolist()
    if run is not None and any(visual):
        report = run.report
        return [sparse_cost(shape, sample, report) for sample in report.samples[::beams]]
    return [dense_cost(shape, v, n - v) for v, n in zip(visual, mask.sum(1).tolist(), strict=True)]


def sparse_cost(shape: DecoderShape, sample: SampleReport, report: Report) -> SampleCost:
    """Of one sample of a report."""
    entering = sample.visual_per_layer
    held = cached_tokens(entering, report.layers[0], report.trimmed)
    text = sample.text_tokens
    return SampleCost(
        visual_tokens=sample.visual_tokens,
        text_tokens=text,
        equal_tokens=sample.equal_tokens,
        equal_tokens_entering=sample.equal_tokens_entering,
        macs_dense=sample.macs_dense,
        macs_sparse=sample.macs_sparse,
        macs_scoring=sample.macs_scoring,
        kv_bytes_dense=_kv_bytes(shape, [text + sample.visual_tokens] * len(entering)),
        kv_bytes_sparse=_kv_bytes(shape, [text + visual for visual in held]),
        kept=[] if sample.note else [entering[layer + 1] for layer in report.layers],
        note=sample.note,
    )


def _kv_bytes(shape: DecoderShape, entering: Sequence[int]) -> int:
    past: Any = [0] * len(entering)
    return shape.kv_cache_bytes(shape.kv_lengths(entering, past))
