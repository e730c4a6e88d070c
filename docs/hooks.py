"""What the site has beside the pages in docs/: the repository's own, and the command line's help.

A page outside docs/ keeps its place below ``project/``. Links between the two are turned to where their targets are in
the site; a link to a file that is not in the site, such as source code, becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "AGENTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "src/sparsesight/bundled/README.md",
    "src/sparsesight/bundled/smol/README.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("benchmarks/results/**/*.md")),
)
PICTURES = tuple(sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("benchmarks/results/**/*.png")))
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
ELSEWHERE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):<code>~?([^<]+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures that are not below docs/."""
    for path in (*PAGES, *PICTURES):
        files.append(File.generated(config, f"project/{path}", abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Name methods as users do, and turn links to other files of the repository to their place in the site."""
    here = page.file.src_uri
    if here in NAMING:
        markdown = NAMING[here](markdown)
        page.meta["search"] = {
            "boost": 4
        }  # a method's name occurs on many pages: first where it is explained
    source = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"

    def turned(found: re.Match[str]) -> str:
        sign, text, target, anchor = found.groups(default="")
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"
        if files.get_file_from_path(place) is None:
            if (ROOT / path).exists() and not path.startswith("docs/"):
                return text
            return found[0]  # nothing has this name: the strict build says so
        return f"{sign}[{text}]({posixpath.relpath(place, posixpath.dirname(here))}{anchor})"

    return LINK.sub(turned, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things by Sphinx's roles, and lead to code by a double colon."""
    return ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html).replace(
        "::</p>", ":</p>"
    )


def on_post_build(config: Any) -> None:
    """Refuse a site that would make its readers fetch anything from elsewhere."""
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        for tag in ELSEWHERE.findall(page.read_text("utf-8")):
            raise PluginError(f"{page.relative_to(config.site_dir)} is not self-contained: {tag}")


def _named(markdown: str) -> str:
    """Head each method of the reference by its name, by which a search finds it, and its class."""
    by_class = {cls.__name__: name for name, cls in _methods().items()}

    def headed(found: re.Match[str]) -> str:
        name = by_class.get(found[2])
        title = "" if name is None else f"\n    options:\n      heading: '{name} ({found[2]})'"
        return found[0] + title

    return re.sub(r"^(::: sparsesight\.methods\.)(\w+)$", headed, markdown, flags=re.M)


def _linked(markdown: str) -> str:
    """Link each method of the table to its options in the reference."""
    methods = _methods()

    def linked(found: re.Match[str]) -> str:
        return f"| [`{found[1]}`](reference/methods.md#sparsesight.methods.{methods[found[1]].__name__}) |"

    return re.sub(r"^\| `([a-z0-9+-]+)` \|", linked, markdown, flags=re.M)


NAMING = {"reference/methods.md": _named, "methods.md": _linked}


def _methods() -> dict[str, type]:
    from sparsesight.methods import METHODS

    return dict(METHODS)


def commands() -> str:
    """The help of every command, by typer."""
    import typer
    from typer.cli import get_docs_for_click

    from sparsesight.commands.cli import app

    program = typer.main.get_command(app)
    text = get_docs_for_click(obj=program, ctx=typer.Context(program), name="sparsesight")
    return re.sub(
        r"^Examples:\n((?:  .*\n?)+)", lambda m: f"Examples:\n\n```sh\n{m[1]}```\n", text, flags=re.M
    )
