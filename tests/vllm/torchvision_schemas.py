"""Makes PyPI's torchvision importable beside a CPU build of torch; not a test, `make test-vllm` installs it there.

That torchvision is built against CUDA, so its kernels do not load beside a CPU torch, and it fails on import because
two of them then have no schema. transformers and vLLM import torchvision but for LLaVA use only what is written in
Python. This gives the two a schema, and no kernel, as soon as torchvision is imported.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any


class SchemasFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; defines the schemas when torchvision is looked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for kernel in ("nms", "qnms"):
                library.define(f"{kernel}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch._torchvision_schemas = library  # type: ignore[attr-defined]


sys.meta_path.insert(0, SchemasFirst())
