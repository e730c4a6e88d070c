"""The blocks of code that the pages show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)(`{3,})(\w*)[^\n]*\n(.*?)^\1\2$", re.S | re.M)
NOTE = re.compile(r"<!--\s*(.*?)\s*-->\s*\Z", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path from the root.
        line: of its fence.
        language: "" if none is named.
        code: without the indentation of its fence.
        note: the HTML comment right before it, or "".
        shows: the block of text right behind it, which is what it prints; None if there is none.
    """

    page: str
    line: int
    language: str
    code: str
    note: str
    shows: str | None


@cache
def pages() -> tuple[str, ...]:
    """Every page with code for readers."""
    own = (
        "README.md",
        "AGENTS.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        "src/sparsesight/bundled/README.md",
        "src/sparsesight/bundled/smol/README.md",
    )
    return (*own, *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md")))


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@cache
def fenced(page: str) -> tuple[Block, ...]:
    text = text_of(page)
    found = list(FENCE.finditer(text))
    blocks = []
    for i, match in enumerate(found):
        indent, _, language, code = match.groups()
        after = found[i + 1] if i + 1 < len(found) else None
        adjacent = after is not None and not text[match.end() : after.start()].strip()
        note = NOTE.search(text[: match.start()])
        blocks.append(
            Block(
                page,
                text.count("\n", 0, match.start()) + 1,
                language,
                re.sub(rf"^{indent}", "", code, flags=re.M),
                note[1] if note else "",
                after[4] if after is not None and adjacent and after[3] == "text" else None,
            )
        )
    return tuple(blocks)


def python_blocks(page: str) -> list[Block]:
    return [block for block in fenced(page) if block.language == "python"]


@cache
def indented(page: str) -> tuple[str, ...]:
    """Blocks that are indented by four blanks, dedented; those within lists, which are indented further, are none."""
    text = FENCE.sub("", text_of(page))
    found = re.findall(r"(?:\A|\n)\n((?:    \S[^\n]*\n(?:\n*    [^\n]*\n)*))", text)
    return tuple(re.sub(r"^    ", "", block, flags=re.M) for block in found)


def commands(page: str) -> list[list[str]]:
    """Words of every shell command of a page, comments and redirections taken off: of blocks marked ``sh``, and of the
    indented ones that begin with a program."""
    blocks = [b.code for b in fenced(page) if b.language in ("sh", "bash", "shell", "console")]
    blocks += indented(page)
    joined = [b.replace("\\\n", " ").splitlines() for b in blocks]
    marked = len(blocks) - len(indented(page))
    joined = [b for i, b in enumerate(joined) if i < marked or program(words(b[0])) in PROGRAMS]
    lines = [line for b in joined for line in b if line.strip()]
    return [found for line in lines if (found := words(line)) and not line.lstrip().startswith(("#", "("))]


PROGRAMS = {
    *(
        "accelerate",
        "bash",
        "cd",
        "curl",
        "git",
        "hf",
        "make",
        "pip",
        "pytest",
        "vllm",
        "python",
        "sparsesight",
        "torchrun",
    ),
    "pre-commit",
}


def words(line: str) -> list[str]:
    try:
        found = shlex.split(line, comments=True)
    except ValueError:  # a quote that goes on in the next line: no command
        return []
    return found[: found.index(">")] if ">" in found else found


def program(found: list[str]) -> str:
    """The program of a command, without the variables before it."""
    rest = [word for word in found if not re.fullmatch(r"[A-Z_0-9]+=.*", word)]
    return re.sub(r"^\S*/bin/", "", rest[0]) if rest else ""
