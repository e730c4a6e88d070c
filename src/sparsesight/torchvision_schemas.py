"""Makes a torchvision that was built for CUDA importable beside a CPU build of torch.

The torchvision of PyPI is built against CUDA, so its kernels do not load beside a CPU torch, and it fails on import
because two of them then have no schema; transformers, which takes a torchvision wherever there is one, fails with it.
transformers and vLLM use only what is written in Python there. This gives the two a schema, and no kernel.

`make install` also copies this file into environments, where a ``.pth`` file calls :func:`install`: of the package it
imports only the error that it raises.
"""

from __future__ import annotations

import importlib.abc
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

OPERATORS = "torchvision::"  # how an error begins to name one of its operators


class SchemasFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; defines the schemas when torchvision is looked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            define()


class MendFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; calls :func:`mend_torchvision` when transformers is looked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "transformers":
            sys.meta_path.remove(self)
            mend_torchvision()


def mend_before_transformers() -> None:
    """Have :func:`mend_torchvision` called just before transformers is imported; for programs of our own."""
    if "transformers" not in sys.modules:
        sys.meta_path.insert(0, MendFirst())


def install() -> None:
    """Have :func:`define` called just before torchvision is imported, by whomever."""
    sys.meta_path.insert(0, SchemasFirst())


def define() -> None:
    """Define the two operators whose absence breaks torchvision; only where its own kernels do not load."""
    import torch

    if without_kernels():  # a .pth file may be read twice
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for kernel in ("nms", "qnms"):
        library.define(f"{kernel}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._torchvision_schemas = library  # type: ignore[attr-defined]


def without_kernels() -> bool:
    """Whether torchvision was given its schemas here."""
    return hasattr(sys.modules.get("torch"), "_torchvision_schemas")


def import_torchvision() -> ModuleType:
    """torchvision, imported, without its kernels if they do not load beside the installed torch.

    Many models' processors need it. Call this before they are loaded if torchvision was built for another build of
    torch, such as for CUDA beside a CPU torch; the commands do so by themselves.

    Raises:
        SparseSightError: it is not installed, or does not load in either way; with the command that mends it.
    """
    try:
        try:
            return import_module("torchvision")
        except Exception as error:
            if OPERATORS not in str(error) or without_kernels():
                raise
            define()
            return import_module("torchvision")
    except Exception as error:  # a library that does not load fails in many ways
        from .errors import SparseSightError

        if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
            raise SparseSightError(f"torchvision is not installed: {remedy()}") from None
        raise SparseSightError(
            f"torchvision {built_for()}does not load ({' '.join(str(error).split())[:160]}): {remedy()}"
        ) from error


def mend_torchvision() -> None:
    """:func:`import_torchvision` where one is installed: transformers would fail with one that does not load.

    Raises:
        SparseSightError: as there.
    """
    if "torchvision" in sys.modules or find_spec("torchvision") is not None:
        import_torchvision()


def remedy() -> str:
    """The command that installs the torchvision of the installed torch, which stays."""
    torch = _version("torch").partition("+")[0]
    return f"pip install torchvision torch=={torch}" if torch else "pip install torch torchvision"


def built_for() -> str:
    """Its version and the torch that it was built for, if that is not the one installed; "" or a text and a blank."""
    found, torch = _version("torchvision"), _version("torch").partition("+")[0]
    wanted = [
        text for text in (metadata.requires("torchvision") or () if found else ()) if text.startswith("torch")
    ]
    version = wanted[0].partition("==")[2].strip("() ") if wanted else ""
    if not version or version == torch:
        return f"{found} " if found else ""
    return f"{found} was built for torch {version}, not for the installed {torch}, and "


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
