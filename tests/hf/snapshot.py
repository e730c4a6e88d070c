"""Everything that an installation could leave behind: of a model, of its configs, and of the process."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class Snapshot:
    """Equal to another if every attribute, in its order, is the same object, and every container holds the same."""

    def __init__(self, model: Any) -> None:
        self.kept: list[Any] = []  # so that no address is used twice
        self.found: dict[str, Any] = {}
        for name, module in model.named_modules():
            self.note(name, vars(module))
            if f"class {type(module)}" not in self.found:
                self.note(f"class {type(module)}", vars(type(module)), deep=False)
            config = getattr(module, "config", None)
            if config is not None:
                self.note(f"{name}.config", vars(config))
        if getattr(model, "generation_config", None) is not None:
            self.note("generation_config", vars(model.generation_config))
        self.note("attention functions", AttentionInterface._global_mapping)
        self.note("own attention functions", ALL_ATTENTION_FUNCTIONS._local_mapping)
        self.note("masks", type(ALL_MASK_ATTENTION_FUNCTIONS)._global_mapping)
        self.note("own masks", ALL_MASK_ATTENTION_FUNCTIONS._local_mapping)
        self.note("warnings", dict(enumerate(warnings.filters)))
        self.note("global hooks", torch.nn.modules.module._global_forward_hooks)
        self.note("global pre-hooks", torch.nn.modules.module._global_forward_pre_hooks)
        self.found["modes"] = torch.is_grad_enabled(), torch.get_default_dtype()

    def note(self, name: str, values: Any, deep: bool = True) -> None:
        values = dict(values)
        self.kept.append(values)
        self.found[name] = [(k, id(v)) for k, v in values.items()]
        for key, value in values.items():
            if deep and isinstance(value, dict):
                self.note(f"{name}.{key}", value, deep=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.found == other.found

    __hash__ = None  # type: ignore[assignment]

    def differences(self, other: Snapshot) -> list[str]:
        names = self.found.keys() | other.found.keys()
        return sorted(k for k in names if self.found.get(k) != other.found.get(k))
