"""What is refused before an engine starts, and of requests before they reach it.

vLLM has no hook for either. One function of its front end is wrapped when the plugin is loaded; another one only for a
server that asks for sparsesight.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from ..errors import SparseSightError
from ..methods import Method
from .config import REQUEST_KEY, method_of, method_of_request
from .guards import check_config, check_method, check_version


def install() -> None:
    """Check an engine's arguments as soon as they are complete; for engines without sparsesight nothing differs."""
    module = sys.modules.get("vllm.engine.arg_utils")  # not loaded where there is no front end
    if module is None or hasattr(module.EngineArgs.create_engine_config, "sparsesight"):
        return
    inner = module.EngineArgs.create_engine_config

    @wraps(inner)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = method_of(self.additional_config)
        config = inner(self, *args, **kwargs)
        if method is not None:
            check(config, method)
            _validate_requests()
        return config

    create_engine_config.sparsesight = True  # type: ignore[attr-defined]
    module.EngineArgs.create_engine_config = create_engine_config


def check(config: Any, method: Method) -> tuple[int, ...]:
    """The pruning layers of ``method`` under a ``VllmConfig``.

    Raises:
        SparseSightError: if any of it cannot work.
    """
    import vllm

    check_version(vllm.__version__)
    check_config(config)
    return check_method(method, config.model_config.hf_text_config.num_hidden_layers)


def _validate_requests() -> None:
    """Refuse a request that asks for what cannot be, as vLLM refuses its own: over HTTP with status 400."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    inner = InputProcessor._validate_params
    if hasattr(inner, "sparsesight"):
        return

    @wraps(inner)
    def _validate_params(self: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        extra_args = getattr(params, "extra_args", None)
        if extra_args and REQUEST_KEY in extra_args:
            try:
                method = method_of(self.vllm_config.additional_config)
                if method is None:
                    raise SparseSightError(f"{REQUEST_KEY}: this server was started without sparsesight")
                num_layers = self.vllm_config.model_config.hf_text_config.num_hidden_layers
                method_of_request(method, check_method(method, num_layers), extra_args)
            except SparseSightError as error:
                raise VLLMValidationError(str(error), parameter=REQUEST_KEY) from error
        return inner(self, params, *args, **kwargs)

    _validate_params.sparsesight = True  # type: ignore[attr-defined]
    InputProcessor._validate_params = _validate_params
