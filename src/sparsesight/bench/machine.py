"""Machine and versions, to stand beside every number."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch


def environment(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Machine and versions, and the commit if the package runs from a checkout, to stand beside every number."""
    import transformers

    from .. import __version__
    from ..origin import commit

    known = commit()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {
        "device": name,
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
