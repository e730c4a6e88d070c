"""What is registered in which vLLM, with stand-ins for it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.vllm.families import MODELS
from sparsesight.vllm.plugin import register


class EngineArgs:
    """As far as it is touched."""

    additional_config: Any = None

    def create_engine_config(self) -> str:
        return "vLLM's"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A vLLM that notes which models it is given."""
    made: Any = ModuleType("vllm")
    made.given = {}
    made.ModelRegistry = SimpleNamespace(register_model=made.given.__setitem__)
    made.EngineArgs = type("EngineArgs", (EngineArgs,), dict(vars(EngineArgs)))
    monkeypatch.setitem(sys.modules, "vllm", made)
    arguments: Any = ModuleType("vllm.engine.arg_utils")
    arguments.EngineArgs = made.EngineArgs
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", arguments)
    return made


def test_models_take_the_place_of_vllms_in_versions_that_were_tested(vllm: Any) -> None:
    vllm.__version__ = "0.32.1"
    register()
    assert vllm.given == {name: f"sparsesight.vllm.model:{name}" for name in MODELS}


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0", "dev"])
def test_in_other_versions_only_an_entry_is_answered_and_refused(vllm: Any, version: str) -> None:
    vllm.__version__ = version
    register()
    register()  # vLLM may do so
    assert not vllm.given
    arguments = vllm.EngineArgs()
    assert arguments.create_engine_config() == "vLLM's"
    arguments.additional_config = {"sparsesight": {"retain": 64}}
    with pytest.raises(SparseSightError, match=rf"vLLM {version}: sparsesight works with 0\.32"):
        arguments.create_engine_config()
