"""Machine and versions, to stand beside every number."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch


def environment(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Machine and versions to stand beside every number; CUDA's where it is used, the commit in a checkout."""
    import transformers

    from .. import __version__
    from ..provenance import commit

    known = commit()
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        **({"cuda": torch.version.cuda} if on_gpu else {}),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sparsesight": __version__,
        **({} if known is None else {"commit": known}),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
