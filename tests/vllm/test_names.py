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


@pytest.mark.vllm(sources=True)
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


# Where a function of ours stands in the place of one of vLLM's: it must take whatever vLLM passes.
IN_PLACE_OF = {
    "scheduler.py:_Sparse._computed_blocks": (
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager.get_computed_blocks",
    ),
    "scheduler.py:_Sparse._allocate_slots": (
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager.allocate_slots",
    ),
    **{
        f"scheduler.py:_Sparse.{name}": ("vllm.v1.core.sched.scheduler", f"Scheduler.{name}")
        for name in ("add_request", "_free_request_blocks", "_try_schedule_encoder_inputs")
    },
    **{
        f"kv_groups.py:StageManager.{name}": (
            "vllm.v1.core.single_type_kv_cache_manager",
            f"{owner}.{name}",
        )
        for owner, name in (
            ("SingleTypeKVCacheManager", "get_num_blocks_to_allocate"),
            ("SingleTypeKVCacheManager", "allocate_new_blocks"),
            ("SingleTypeKVCacheManager", "pop_blocks_for_free"),
            ("FullAttentionManager", "find_longest_cache_hit"),
        )
    },
    "runner.py:StageBuilder.build": ("vllm.v1.attention.backend", "AttentionMetadataBuilder.build"),
    "runner.py:StageBuilder.build_for_cudagraph_capture": (
        "vllm.v1.attention.backend",
        "AttentionMetadataBuilder.build_for_cudagraph_capture",
    ),
    **{
        f"runner_v2.py:SparseModelState.{name}": (
            "vllm.v1.worker.gpu.model_states." + module,
            f"{owner}.{name}",
        )
        for module, owner, name in (
            ("default", "DefaultModelState", "add_request"),
            ("default", "DefaultModelState", "prepare_attn"),
            ("interface", "ModelState", "preprocess_state"),
        )
    },
    "admission.py:_generate": ("vllm.v1.engine.async_llm", "AsyncLLM.generate"),
    "admission.py:_process_inputs": ("vllm.v1.engine.input_processor", "InputProcessor.process_inputs"),
    "admission.py:_preprocess": ("vllm.renderers.online_renderer", "OnlineRenderer.preprocess_chat"),
    "admission.py:_beam_search": (
        "vllm.entrypoints.generate.beam_search.online",
        "BeamSearchOnlineMixin.beam_search",
    ),
    "admission.py:_load": ("vllm.multimodal.media.connector", "MediaConnector.load_from_url"),
}


def function(path: Path, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """A function of a module, or of a class in it, wherever that is."""
    owner, _, member = name.rpartition(".")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (isinstance(node, ast.ClassDef) and node.name == owner) or (
            isinstance(node, ast.Module) and not owner
        ):
            for one in top_level(node.body):
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == member:
                    return one
    raise LookupError(f"{path}: {name}")


def not_taken(ours: ast.arguments, theirs: ast.arguments) -> list[str]:
    """What can be passed to a function and not to the one in its place; ``inner`` of a wrapper is not passed."""
    named = [x.arg for x in (*ours.posonlyargs, *ours.args, *ours.kwonlyargs)]
    places = len([x for x in ours.args if x.arg != "inner"])
    missing = [] if ours.vararg else [x.arg for x in theirs.args[places:]]
    if not ours.kwarg:
        missing += [
            x.arg for x in (*theirs.args[1:], *theirs.kwonlyargs) if not ours.vararg and x.arg not in named
        ]
        missing += [theirs.kwarg.arg] if theirs.kwarg else []
    return missing


@pytest.mark.vllm(sources=True)
@pytest.mark.parametrize("tree", trees(), ids=lambda tree: tree.parent.name + "/" + tree.name)
def test_what_vllm_passes_is_taken(tree: Path) -> None:
    missing = {}
    for own, (module, name) in IN_PLACE_OF.items():
        path = source(tree, module)
        assert path is not None, module
        file, _, ours = own.partition(":")
        found = not_taken(function(OURS / file, ours).args, function(path, name).args)
        if found:
            missing[own] = found
    assert not missing


def test_an_argument_that_is_not_taken_is_found_out() -> None:
    def arguments(text: str) -> ast.arguments:
        (made,) = ast.parse(f"def f({text}): ...").body
        assert isinstance(made, ast.FunctionDef)
        return made.args

    theirs = arguments("self, request, bound=None, *, more=0")
    assert not_taken(arguments("self, request"), theirs) == ["bound", "bound", "more"]
    assert not_taken(arguments("self, request, **kwargs"), theirs) == ["bound"]
    assert not_taken(arguments("inner, self, request, bound, **kwargs"), theirs) == []
    assert not_taken(arguments("self, *args, **kwargs"), theirs) == []


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
