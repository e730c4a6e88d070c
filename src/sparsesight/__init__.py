"""SparseSight: vision-language models that look only where the question points."""

from .errors import BudgetError, SparseSightError, UnsupportedModelError
from .hf.sparsify import Sparsified, sparsify
from .methods import METHODS, Method, Random, SparseVLM, SparseVLMPlus

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BudgetError",
    "Method",
    "Random",
    "SparseSightError",
    "SparseVLM",
    "SparseVLMPlus",
    "Sparsified",
    "UnsupportedModelError",
    "sparsify",
]
