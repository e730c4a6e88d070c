"""Every name of vLLM that the plugin relies on exists, in the vLLM that is installed and in another one's sources.

``SPARSESIGHT_VLLM_SOURCES`` names folders that hold a folder ``vllm``, such as an unpacked wheel; several are separated
by a colon. Nothing of them is imported.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import sparsesight.vllm
from sparsesight.vllm.families import MODELS
from sparsesight.vllm.names import NAMES, VERSIONS

OURS = Path(sparsesight.vllm.__file__).parent


def trees() -> list[Path]:
    spec = find_spec("vllm")
    installed = [Path(spec.origin).parent.parent] if spec is not None and spec.origin else []
    named = os.environ.get("SPARSESIGHT_VLLM_SOURCES", "").split(":")
    return [*installed, *(Path(name) for name in named if name)]


def source(tree: Path, module: str) -> Path | None:
    path = tree / Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, also those under ``if`` and ``try``."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from top_level(
                [*node.body, *node.orelse, *(s for h in getattr(node, "handlers", ()) for s in h.body)]
            )


@cache
def statements(path: Path) -> list[ast.stmt]:
    return list(top_level(ast.parse(path.read_text("utf-8")).body))


def bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    names = [x for target in targets for x in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {x.id for x in names if isinstance(x, ast.Name)}


def has_member(node: ast.ClassDef, member: str) -> bool:
    """Whether a class defines a member, or sets it on itself."""
    if any(member in bound(x) for x in node.body):
        return True
    return any(
        isinstance(x, ast.Attribute)
        and x.attr == member
        and isinstance(x.ctx, ast.Store)
        and isinstance(x.value, ast.Name)
        and x.value.id == "self"
        for x in ast.walk(node)
    )


def exists(tree: Path, module: str, name: str) -> bool:
    """Whether a module has a name, its own or one that it imports."""
    path = source(tree, module)
    if path is None:
        return False
    owner, _, member = name.partition(".")
    nodes = statements(path)
    if member:
        classes = [x for x in nodes if isinstance(x, ast.ClassDef) and x.name == owner]
        return any(has_member(x, member) for x in classes)
    if any(owner in bound(x) for x in nodes):
        return True
    everything = [
        x.module for x in nodes if isinstance(x, ast.ImportFrom) and x.names[0].name == "*" and x.level == 1
    ]
    if any(exists(tree, f"{module}.{inner}", owner) for inner in everything):
        return True
    lazily = [
        x for x in nodes if isinstance(x, ast.Assign) and "MODULE_ATTRS" in bound(x)
    ]  # of `vllm` itself
    return any(isinstance(x, ast.Constant) and x.value == owner for node in lazily for x in ast.walk(node))


@pytest.mark.parametrize("tree", trees(), ids=lambda tree: tree.parent.name + "/" + tree.name)
def test_every_name_exists(tree: Path) -> None:
    table = [(module, name) for module, names in NAMES.items() for name in names]
    missing = [f"{module}:{name}" for module, name in table if not exists(tree, module, name)]
    missing += [
        f"vllm.model_executor.models.{module}:{name}"
        for module, name in MODELS.values()
        if not exists(tree, f"vllm.model_executor.models.{module}", name)
    ]
    assert not missing, "\n".join(missing)


def test_a_name_that_is_not_there_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "a.py").write_text(
        "if True:\n    class A:\n        x: int\n        def f(self):\n            self.y = 1\n"
    )
    for name, there in {"A": True, "A.x": True, "A.f": True, "A.y": True, "A.z": False, "B": False}.items():
        assert exists(tmp_path, "vllm.a", name) == there, name
    assert not exists(tmp_path, "vllm.b", "A")


def test_the_table_has_every_import() -> None:
    missing = set()
    for path in OURS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.ImportFrom)
                and not node.level
                and (node.module or "").split(".")[0] == "vllm"
            ):
                known = {name.partition(".")[0] for name in NAMES.get(node.module or "", ())}
                missing |= {
                    f"{path.name}: {node.module}:{x.name}"
                    for x in node.names
                    if x.name not in known and f"{node.module}.{x.name}" not in NAMES
                }
    assert not missing, "\n".join(sorted(missing))


def test_versions_of_the_table_are_those_that_are_served() -> None:
    from sparsesight.vllm import validation

    assert validation.VERSIONS is VERSIONS
