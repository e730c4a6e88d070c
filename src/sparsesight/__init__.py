"""SparseSight: training-free pruning of the visual tokens that the question does not need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import BudgetError, SparseSightError, UnsupportedModelError

if TYPE_CHECKING:
    from .core.turns import Turns
    from .hf.install import restore
    from .hf.predicted import drop_predicted
    from .hf.sparsified import Sparsified
    from .hf.sparsify import prompt_ends, questions, sparsify, visual_tokens
    from .hf.vision.text_tower import TextTower
    from .methods import (
        DART,
        METHODS,
        SCOPE,
        CDPruner,
        Compose,
        DivPrune,
        FasterVLM,
        FastV,
        FastVID,
        Halves,
        HoloV,
        LastToken,
        Method,
        MMTok,
        Narrow,
        Pooling,
        PriorTR,
        PyramidDrop,
        Random,
        SparseVLM,
        SparseVLMPlus,
        ToMe,
        Uniform,
        VidCom2,
        VisionZip,
        VisPruner,
    )
    from .torchvision_schemas import import_torchvision

__version__ = "0.1.0"

__all__ = [
    "DART",
    "METHODS",
    "SCOPE",
    "BudgetError",
    "CDPruner",
    "Compose",
    "DivPrune",
    "FastV",
    "FastVID",
    "FasterVLM",
    "Halves",
    "HoloV",
    "LastToken",
    "MMTok",
    "Method",
    "Narrow",
    "Pooling",
    "PriorTR",
    "PyramidDrop",
    "Random",
    "SparseSightError",
    "SparseVLM",
    "SparseVLMPlus",
    "Sparsified",
    "TextTower",
    "ToMe",
    "Turns",
    "Uniform",
    "UnsupportedModelError",
    "VidCom2",
    "VisPruner",
    "VisionZip",
    "drop_predicted",
    "import_torchvision",
    "prompt_ends",
    "questions",
    "restore",
    "sparsify",
    "visual_tokens",
]


def __getattr__(name: str) -> Any:
    """Import torch and transformers lazily, as that takes seconds."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {
        "Sparsified": ".hf.sparsified",
        "TextTower": ".hf.vision.text_tower",
        "Turns": ".core.turns",
        "drop_predicted": ".hf.predicted",
        "import_torchvision": ".torchvision_schemas",
        "prompt_ends": ".hf.sparsify",
        "questions": ".hf.sparsify",
        "restore": ".hf.install",
        "sparsify": ".hf.sparsify",
        "visual_tokens": ".hf.sparsify",
    }
    module = homes.get(name, ".methods")
    value = globals()[name] = getattr(import_module(module, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
