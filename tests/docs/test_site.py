"""The parts of the site that are our own: links between docs/ and the rest of the repository, roles, outside resources.

That it builds strictly is `make docs`, which `make test` includes.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.docs.blocks import ROOT, pages

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "turned"),
    [
        ("costs.md", "[a](../benchmarks/README.md)", "[a](project/benchmarks/README.md)"),
        ("howto/video.md", "[a](../vllm.md#x)", "[a](../vllm.md#x)"),
        ("howto/video.md", "[a](../../AGENTS.md)", "[a](../project/AGENTS.md)"),
        ("project/benchmarks/README.md", "![p](results/x.png)", "![p](results/x.png)"),
        ("project/benchmarks/README.md", "[a](../docs/costs.md)", "[a](../../costs.md)"),
        ("costs.md", "the [code](../src/sparsesight/equal_cost.py)", "the code"),
        ("costs.md", "[a](https://x.org/y)", "[a](https://x.org/y)"),
        ("costs.md", "[a](#below)", "[a](#below)"),
        ("costs.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("costs.md", "[a](../nowhere.md)", "[a](../nowhere.md)"),
    ],
)
def test_links(hooks: Any, page: str, link: str, turned: str) -> None:
    there = {"vllm.md", "costs.md", "project/AGENTS.md", "project/benchmarks/README.md"}
    files = SimpleNamespace(
        get_file_from_path=lambda path: path if path in there or "results" in path else None
    )
    shown = hooks.on_page_markdown(
        link, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)), files=files
    )
    assert shown == turned


def test_roles_become_names(hooks: Any) -> None:
    html = "<p>See :class:<code>~sparsesight.methods.Method</code> and :func:<code>plan</code>::</p>"
    assert hooks.on_page_content(html) == "<p>See <code>Method</code> and <code>plan</code>:</p>"


@pytest.mark.parametrize(
    ("html", "good"),
    [
        ('<a href="https://arxiv.org">x</a><img src="x.png">', True),
        ('<script src="https://unpkg.com/mermaid"></script>', False),
        ("<link rel=stylesheet href=//fonts.googleapis.com/css>", False),
    ],
)
def test_nothing_is_fetched_from_elsewhere(hooks: Any, html: str, good: bool, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(html)
    config = SimpleNamespace(site_dir=str(tmp_path))
    if good:
        hooks.on_post_build(config)
    else:
        with pytest.raises(hooks.PluginError, match="not self-contained"):
            hooks.on_post_build(config)


def test_every_command_has_its_examples_as_a_block(hooks: Any) -> None:
    text = hooks.commands()
    assert text.count("```sh\n  sparsesight") >= 6 and "Examples:\n  " not in text


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/.-]+\.md)", nav))
    written = {p.removeprefix("docs/") for p in pages() if p.startswith("docs/")}
    assert written <= listed
