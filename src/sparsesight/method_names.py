"""Names and options of all methods, for editors and type checkers; a test keeps them in sync with the methods."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

MethodName = Literal[
    "sparsevlm",
    "sparsevlm+",
    "fastv",
    "pyramiddrop",
    "dart",
    "priortr",
    "visionzip",
    "vispruner",
    "fastervlm",
    "divprune",
    "cdpruner",
    "scope",
    "mmtok",
    "vidcom2",
    "fastvid",
    "halves",
    "narrow",
    "holov",
    "tome",
    "pooling",
    "uniform",
    "last-token",
    "random",
    "sparsevlm:published",
    "sparsevlm+:published",
    "fastv:published",
    "pyramiddrop:published",
    "dart:published",
    "priortr:published",
    "visionzip:published",
    "vispruner:published",
    "fastervlm:published",
    "divprune:published",
    "cdpruner:published",
    "scope:published",
    "vidcom2:published",
    "fastvid:published",
    "holov:published",
]


# What is used where no method is named, everywhere: `sparsify(model)`, the commands, the demo, vLLM.
DEFAULT: Final[MethodName] = "halves"


class MethodOptions(TypedDict, total=False):
    """Fields of all methods except ``retain``; creating a method checks which ones it has."""

    layers: tuple[int, ...] | None
    positions: Literal["original", "compact"]
    always_drop: bool
    per_frame: bool
    judged_by: Literal["turn", "prompt"]
    proportional: bool
    recycle: float
    adaptive: bool
    scale: float
    bias: float
    heads: int | float
    gravity_floor: float | None
    ratio: float | None
    pivots: int
    text_pivots: int
    contextual: float
    add: bool
    important: float
    step: int | float
    guide: Literal["language-model", "text-tower"]
    opposite: bool
    crops: int
    balance: float
    by_attention: bool
    alpha: float
    text_temperature: float
    visual_temperature: float
    temperature: float
    context: float
    segments: int
    threshold: float
    interval: int
    weight: float
    asked: float
    bandwidth: float
    share: float
    seed: int
