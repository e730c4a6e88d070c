"""A pytest plugin that lets vLLM's V2 model runner run without a GPU: ``pytest -p tests.vllm.v2_on_cpu ...``.

The V2 runner prepares its inputs with Triton kernels. Triton's own interpreter runs them on a CPU, slowly; vLLM looks
for a backend of Triton's that is named "cpu" first, and is shown one.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

from triton.backends import backends

backends.setdefault("cpu", SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None))
