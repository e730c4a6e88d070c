"""A torchvision for another build of torch is imported without its kernels; what does not load is one sentence."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from sparsesight import SparseSightError, import_torchvision
from sparsesight import torchvision_schemas as schemas

# As the package's own first lines fail without its kernels.
BUILT_FOR_CUDA = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    pass
"""
PLAIN = """
import sys
sys.meta_path[:] = [x for x in sys.meta_path if type(x).__name__ != "SchemasFirst"]  # of a developer's environment
sys.path.insert(0, sys.argv[1])
try:
    import torchvision
except RuntimeError as error:
    print(error)
import sparsesight
print(sparsesight.import_torchvision().__name__, sparsesight.import_torchvision().__file__)
"""
BY_ITSELF = """
import sys
sys.meta_path[:] = [x for x in sys.meta_path if type(x).__name__ != "SchemasFirst"]
sys.path.insert(0, sys.argv[1])
from sparsesight import torchvision_schemas
torchvision_schemas.install()
torchvision_schemas.install()  # as a .pth file that is read twice
import torchvision
print(torchvision.__file__)
"""
COMMAND = """
import sys
sys.meta_path[:] = [x for x in sys.meta_path if type(x).__name__ != "SchemasFirst"]
sys.path.insert(0, sys.argv.pop(1))
from sparsesight.commands import cli
sys.argv.append("--version")
try:
    cli.main()
except SystemExit:
    import transformers
print(sys.modules["torchvision"].__file__)
"""


def package(folder: Path, code: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code)
    return folder


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that fails for another reason."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch, "_torchvision_schemas", raising=False)
    monkeypatch.setattr(schemas, "define", lambda: pytest.fail("there is nothing to define"))
    monkeypatch.syspath_prepend(package(tmp_path, "import math\nmath.no_such_name"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (PLAIN, "operator torchvision::nms does not exist\ntorchvision "),
        pytest.param(BY_ITSELF, "", marks=pytest.mark.slow),
        (COMMAND, "sparsesight 0.1.0\n"),
    ],
)
def test_kernels_for_another_torch(code: str, said: str, tmp_path: Path) -> None:
    folder = package(tmp_path, BUILT_FOR_CUDA)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{said}{folder}/torchvision/__init__.py\n", done.stderr


@pytest.mark.usefixtures("broken")
def test_what_does_not_load_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.22.0"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.7.0"])
    with pytest.raises(SparseSightError) as error:
        import_torchvision()
    assert str(error.value) == (
        "torchvision 0.22.0 was built for torch 2.7.0, not for the installed 2.13.0, and does not load (module 'math' "
        "has no attribute 'no_such_name'): pip install torchvision torch==2.13.0"
    )
    with pytest.raises(SparseSightError, match="does not load"):
        schemas.mend_torchvision()


def test_none_is_needed_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(schemas, "find_spec", lambda name: None)
    monkeypatch.setattr(schemas, "import_module", missing)
    schemas.mend_torchvision()
    with pytest.raises(
        SparseSightError, match=r"torchvision is not installed: pip install torchvision torch==\d"
    ):
        import_torchvision()
