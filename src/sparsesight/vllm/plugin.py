"""The entry point of the group ``vllm.general_plugins``; vLLM calls it in every process."""

from __future__ import annotations

from .families import MODELS


def register() -> None:
    """Put our models in the place of vLLM's; they are imported only when such a model is loaded."""
    from vllm import ModelRegistry

    from .frontend import install

    install()

    for architecture in MODELS:
        ModelRegistry.register_model(architecture, f"sparsesight.vllm.models:{architecture}")
