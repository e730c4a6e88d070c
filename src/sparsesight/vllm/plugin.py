"""The entry point of the group ``vllm.general_plugins``; vLLM calls it in every process."""

from __future__ import annotations

from ..errors import SparseSightError
from .families import MODELS


def register() -> None:
    """Put our models in the place of vLLM's; they are imported only when such a model is loaded.

    Without an entry in ``additional_config`` this remains different: the wrapped ``EngineArgs.create_engine_config``,
    which then only looks for the entry, and the class of the model, which then only adds that weights of a CLIP-like
    tower are found by newer names as well. In a vLLM that the plugin was not tested with the first remains, which tells
    those who have an entry.
    """
    from vllm import ModelRegistry

    from .frontend import check_installed, install

    install()
    try:
        check_installed()
    except SparseSightError:
        return

    for architecture in MODELS:
        ModelRegistry.register_model(architecture, f"sparsesight.vllm.model:{architecture}")
