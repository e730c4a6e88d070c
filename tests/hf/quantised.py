"""Tiny models with quantised weights, loaded as users load them: saved, then read with a quantisation config."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText


@dataclass(frozen=True)
class Format:
    """A way to hold weights.

    Attributes:
        package: that it needs.
        block: weights of a row that share a scale; linears whose rows are not a multiple of it stay as they are.
        config: the names of the modules that stay as they are -> what `from_pretrained` takes.
        rounds: activations are rounded as well, so that a difference of 1e-6 (a batch and a sample alone) may grow to a
            step of an integer: the dense model differs as much.
    """

    package: str
    block: int
    config: Callable[[list[str]], Any]
    rounds: bool = False


def _torchao(name: str, **how: Any) -> Callable[[list[str]], Any]:
    def config(skipped: list[str]) -> Any:
        from torchao import quantization
        from transformers import TorchAoConfig

        if "group" in how:
            granularity = quantization.PerGroup(how["group"])
            made = getattr(quantization, name)(weight_dtype=torch.int4, granularity=granularity)
        else:
            made = getattr(quantization, name)()
        return TorchAoConfig(made, modules_to_not_convert=skipped)

    return config


def _bitsandbytes(**how: Any) -> Callable[[list[str]], Any]:
    def config(skipped: list[str]) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(**how, llm_int8_skip_modules=skipped)

    return config


FORMATS = {
    "bitsandbytes 8 bit": Format("bitsandbytes", 1, _bitsandbytes(load_in_8bit=True), rounds=True),
    "bitsandbytes 4 bit": Format(
        "bitsandbytes",
        64,  # its kernel for CPUs fails for narrower rows
        _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
        rounds=True,  # to bfloat16, where the CPU has instructions for it
    ),
    "torchao int8": Format("torchao", 1, _torchao("Int8WeightOnlyConfig")),
    "torchao int8, activations too": Format(
        "torchao", 1, _torchao("Int8DynamicActivationInt8WeightConfig"), rounds=True
    ),
    "torchao int4": Format("torchao", 32, _torchao("IntxWeightOnlyConfig", group=32)),
}


def missing(name: str) -> str:
    package = FORMATS[name].package
    return "" if find_spec(package) else f"needs {package}: pip install {package}"


def quantised(name: str, built: Any, attention: str = "sdpa") -> Any:
    """The model with the weights of its linears in that format, but for the last one, as usual."""
    if missing(name):
        pytest.skip(missing(name))
    block = FORMATS[name].block
    skipped = [n for n, m in built.named_modules() if isinstance(m, nn.Linear) and m.in_features % block]
    with tempfile.TemporaryDirectory() as folder:
        built.save_pretrained(folder)
        config = FORMATS[name].config([*skipped, "lm_head"])
        made = AutoModelForImageTextToText.from_pretrained(
            folder, quantization_config=config, device_map="cpu", attn_implementation=attention
        )
    changed = [m for m in made.get_decoder().modules() if isinstance(m, nn.Linear) and is_quantised(m)]
    assert changed, "no weight of the decoder was quantised"
    return made.eval()


def is_quantised(linear: nn.Module) -> bool:
    weight: Any = linear.weight
    return type(weight) not in (nn.Parameter, torch.Tensor)
