"""Peak bytes of tensors in a prefill with long text after the picture: dense, all text rows scored, the raters alone.

python -m benchmarks.long_text_memory 256,1024
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from benchmarks.long_text import AllRows, Few
from sparsesight import Method, sparsify
from sparsesight.profiling.peak_memory import Memory
from sparsesight.random_models import Shape, random_llava

LAYERS = 3


def peak(model: Any, prompt: dict[str, Any], method: Method | None) -> int:
    """Bytes; weights and what the model is given aside."""
    with torch.no_grad(), Memory() as memory:
        if method is None:
            model(**prompt, use_cache=True, logits_to_keep=1)
        else:
            with sparsify(model, method):
                model(**prompt, use_cache=True, logits_to_keep=1)
    return memory.peak


if __name__ == "__main__":
    torch.set_num_threads(1)
    for width in map(int, sys.argv[1].split(",")):
        for text in (500, 1000, 2000, 4000):
            shape = f"layers={LAYERS},hidden={width},ffn={math.ceil(width * 11 / 4)},heads={width // 64},text={text}"
            built, given = random_llava(Shape.parse(shape, visual=576), torch.float32, "cpu")
            runs = (None, AllRows(192, layers=(1,)), Few(192, layers=(1,)))
            print(width, text, [round(peak(built, given, run) / 1e6, 1) for run in runs], flush=True)
