"""The order of the rooms, read from the imports themselves: arrows run down, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import sparsesight

ROOT = Path(sparsesight.__file__).parent
# From the bottom up. A room may import from its own row and from those above it in this table.
ROOMS = (
    (
        "errors",
        "suggestions",
        "terminal",
        "file_lock",
        "files",
        "families",
        "checkpoint_limits",
        "hub",
        "method_names",
        "torchvision_schemas",
    ),
    ("ops",),
    ("core",),
    ("methods",),
    (
        "macs",
        "equal_cost",
        "report",
        "profiling",
        "images",
        "bundled",
        "provenance",
        "random_models",
        "settings",
        "scenes",
    ),
    ("hf", "vllm"),
    ("viz", "bench"),
    ("compare",),
    ("eval",),
    ("demo",),
    ("commands",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
# The package itself hands names of `hf` and `methods` on, when they are first asked for.
PACKAGE = "sparsesight"


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        if "tasks" not in path.parts:  # scoring files that lmms-eval loads by their path
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join((PACKAGE, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules that a module imports anywhere in its code, for type checkers only as well."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in MODULES else source


@cache
def arrows() -> dict[str, set[str]]:
    """What each module imports of ours."""
    return {
        name: {other for other in imported(name, path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else PACKAGE


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in MODULES} - {PACKAGE} == set(FLOOR)


def test_arrows_run_down() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in others
        if PACKAGE not in (room(name), room(other)) and FLOOR[room(name)] < FLOOR[room(other)]
    ]
    assert not upward, "\n".join(sorted(upward))


def test_no_circle() -> None:
    try:
        list(TopologicalSorter(arrows()).static_order())
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_core_and_methods_know_no_model() -> None:
    """`ops` imports torch alone; neither `core` nor `methods` import transformers or a host."""
    for name, path in MODULES.items():
        if room(name) in ("ops", "core", "methods"):
            outside = {module.split(".")[0] for module in imported(name, path)}
            assert not outside & {"transformers", "vllm"}, name
