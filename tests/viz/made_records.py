"""Looks made by hand, of pictures that a model sees as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sparsesight import viz
from sparsesight.report import Report, SampleReport

LAYERS = 6


def square(side: int, size: tuple[int, int]) -> viz.View:
    """``side`` x ``side`` patches of a whole picture."""
    x, y = (np.linspace(0, edge, side + 1) for edge in size)
    pairs = [np.stack((edge[:-1], edge[1:]), 1) for edge in (x, y)]
    return viz.View.of(np.arange(side * side).reshape(side, side), *pairs)


def stage(tokens: int, kept: Any, merged: Any = (), centre: Any = (), layer: int = 2) -> viz.StageRecord:
    """``merged`` tokens are part of the merged token at the first ``centre``; each of these is part of itself."""
    into = np.full(tokens, -1)
    for token in merged:
        into[token] = token if token in centre else centre[0]
    flags = np.isin(np.arange(tokens), list(kept))
    return viz.StageRecord(layer, flags, into, np.linspace(0, 1, tokens, dtype=np.float32))


def report(tokens: int, left: int, before: bool = False) -> Report:
    """Of a prefill that left so many tokens after layer 2, or before the first layer."""
    per_layer = (*([left if before else tokens] * 3), left, left, left)
    sample = SampleReport(tokens, 9, per_layer, 0.0, 0.0, 10, 5, 1)
    return Report({"method": "by-hand", "retain": 3}, (2,), (sample,), (9,) * LAYERS, 100, 50)


def look(
    image: Image.Image, *stages: viz.StageRecord, side: int = 4, words: tuple[viz.Word, ...] = ()
) -> viz.Look:
    tokens = side * side
    picture = viz.Picture((image,), (square(side, image.size),))
    left = int(stages[-1].kept.sum()) if stages else tokens
    return viz.Look((picture,), stages, words, report(tokens, left))


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
