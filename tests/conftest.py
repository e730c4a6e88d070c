"""The shapes and dtypes that annotations promise are checked for as long as the tests run.

The package imports jaxtyping for type checkers only, so that users need not install it. Here its names are put into
the modules that use them, and every annotated function, method, dataclass and named tuple in those modules is
wrapped: a tensor of another shape or dtype than promised raises at once, whichever test meets it. In `make test` these
are the tests of the rooms that promise shapes, and of `hf/`; the checks cost a sixth of the time of a tiny model.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import sys
import typing
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

try:
    import jaxtyping
    from beartype import beartype
except ImportError:  # a machine without the development tools runs the same tests unchecked
    jaxtyping = None  # type: ignore[assignment]

NAMES = ("Bool", "Float", "Int", "Num")
HERE = Path(__file__).parent
# Files of few tests that take long: they start processes and servers, or engines of vLLM.
LONG = (
    "test_launched",
    "test_notebooks",
    "test_peers",
    "test_compile",
    "test_trl",
    "test_bundled",
    "test_train_smol",
    "test_bench",
    "test_browser",
    "test_tune",
    "test_server",
    "test_runner_v2",
    "test_engine",
    "test_prefix_caching",
    "test_tensor_parallel",
)
CHECKED = ("core", "methods", "ops", "hf")  # not the matrix of families


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # pytest-xdist's own process runs no test, and the imports take seconds
    gc.disable()  # till all tests are known: these are a million objects to go through, none of them garbage

    import torch

    config.pluginmanager.import_plugin("tests.host_reads")  # its fixture
    torch.set_num_threads(1)  # tensors are small: threads gain little, and on a busy machine they mostly wait
    if jaxtyping is not None:
        for module in annotated_modules():
            for name in NAMES:
                setattr(module, name, getattr(jaxtyping, name))
        for module in annotated_modules():
            check(module)


def annotated_modules() -> list[ModuleType]:
    import sparsesight.hf.sparsify  # noqa: F401 - it imports all modules in question

    return [
        m
        for n, m in sys.modules.items()
        if n.startswith(("sparsesight.core", "sparsesight.methods", "sparsesight.ops"))
    ]


def shaped(function: Any) -> bool:
    """Whether an annotation states a shape."""
    text = str(inspect.get_annotations(function))
    return any(f"{name}[" in text for name in NAMES)


def check(module: ModuleType) -> None:
    """Wrap whatever a module defines with stated shapes, also where another module has imported it by name."""

    def wrap(function: Any) -> Any:
        # Read the annotations here, where one that means nothing raises; the checker would pass over it.
        inner = getattr(function, "__func__", function)
        inner.__annotations__ = typing.get_type_hints(inner, vars(module), include_extras=True)
        return jaxtyping.jaxtyped(function, typechecker=beartype)

    defined = [(k, v) for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    for name, value in defined:
        if inspect.isfunction(value):
            if shaped(value):
                replace(name, value, wrap(value))
        elif inspect.isclass(value):
            for key, method in list(vars(value).items()):
                inner = method.__func__ if isinstance(method, classmethod) else method
                if inspect.isfunction(inner) and key not in ("__init__", "__new__") and shaped(inner):
                    setattr(value, key, wrap(method))
            if shaped(value) and dataclasses.is_dataclass(value):
                value.__init__ = wrap(value.__init__)  # type: ignore[misc]
            elif shaped(value) and issubclass(value, tuple):
                value.__new__ = staticmethod(wrap(value.__new__))  # type: ignore[method-assign,assignment]


def replace(name: str, function: Any, checked: Any) -> None:
    for n, module in list(sys.modules.items()):
        if n.split(".")[0] == "sparsesight" and vars(module).get(name) is function:
            setattr(module, name, checked)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if jaxtyping is not None:
        checked = set(item.path.relative_to(HERE).parts) & set(CHECKED)
        everything = not item.config.option.markexpr
        known = checked and item.path.stem != "test_families"
        jaxtyping.config.update("jaxtyping_disable", not (everything or known))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with the marker `vllm` need it. Of several processes, each takes the longest groups first.

    These are the files in `LONG`, then those with many tests, so that the processes end together.
    """
    if find_spec("vllm") is None:
        for item in items:
            mark = item.get_closest_marker("vllm")
            if mark and not mark.kwargs.get("sources"):  # another vLLM's may be named
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
    if hasattr(config, "workerinput"):
        sizes = Counter(group_of(item.nodeid) for item in items)
        items.sort(key=lambda item: (item.path.stem not in LONG, -sizes[group_of(item.nodeid)]))


def group_of(test: str) -> str:
    """What shares a process, and what it builds: the tests of a file; the matrix, by far the longest, by family.

    Files that import lmms-eval, which takes ten seconds, share one process, and so do those that ask one server.
    """
    file, _, name = test.partition("::")
    if file.endswith("hf/test_families.py"):
        return f"{file} {name.partition('[')[2].rsplit('-', 2)[0]}"
    if "/lmms/" in file or file.endswith(("test_judges.py", "test_scorers.py")):
        return "lmms"
    if "vllm/test_server" in file and not file.endswith("test_server_processes.py"):
        return "server of vLLM"
    return file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's own way to name groups, a marker, does nothing with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Grouped(config, log)
