"""What is registered in which vLLM, with stand-ins for it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
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


@pytest.mark.parametrize("version", ["0.31.0", "0.34.0", "dev"])
def test_in_other_versions_only_an_entry_is_answered_and_refused(vllm: Any, version: str) -> None:
    vllm.__version__ = version
    register()
    register()  # vLLM may do so
    assert not vllm.given
    arguments = vllm.EngineArgs()
    assert arguments.create_engine_config() == "vLLM's"
    arguments.additional_config = {"sparsesight": {"retain": 64}}
    with pytest.raises(
        SparseSightError, match=rf"vLLM {version}: sparsesight works with 0\.32\.\*, 0\.33\.\*"
    ):
        arguments.create_engine_config()


def test_plugins_that_are_loaded_before_the_front_end_still_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "__init__.py": "from types import SimpleNamespace\n__version__ = '0.32.0'\n"
        "ModelRegistry = SimpleNamespace(register_model=lambda name, path: None)\n",
        "engine/__init__.py": "",
        "engine/arg_utils.py": "class EngineArgs:\n    additional_config = None\n"
        "    def create_engine_config(self):\n        return 'vLLM\\'s'\n",
    }
    for name, code in files.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    register()
    arguments: Any = import_module("vllm.engine.arg_utils").EngineArgs()
    arguments.additional_config = {"sparsesight": 64}
    with pytest.raises(SparseSightError, match="give an object"):
        arguments.create_engine_config()
    for name in ("vllm", "vllm.engine", "vllm.engine.arg_utils"):
        del sys.modules[name]  # not by monkeypatch, which would put them back
