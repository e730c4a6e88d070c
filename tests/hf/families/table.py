"""The guide's table of model families, from the matrix. `python -m tests.hf.families.table` writes it there."""

from __future__ import annotations

from pathlib import Path

from . import ALL
from .base import Family
from .matrix import CHECKS
from .processors import WITHOUT
from .refused import REFUSED

PAGE = Path(__file__).parents[3] / "docs/reference/families.md"
BEGIN, END = "<!-- families: begin (make families) -->", "<!-- families: end -->"
SEEN = {"image": "pictures", "image, video": "pictures, clips"}
INPUTS = {"processor": "its processor", "tensors": "tensors"}


def table() -> str:
    """Families that work, with what was tried, then those that are refused, with the reason."""
    rows = [
        "| `model_type` | visual tokens | prompts by | notes | checks passed |",
        "| --- | --- | --- | --- | --- |",
        *map(_row, sorted(ALL, key=lambda f: f.name)),
    ]
    refused = [
        "| refused | why |",
        "| --- | --- |",
        *(f"| `{f.name}` | {_which(f.layers)}{f.why} |" for f in sorted(REFUSED, key=lambda f: f.name)),
    ]
    return "\n".join([*rows, "", _loaded(), "", *refused])


def _loaded() -> str:
    """Which families were also loaded from a folder."""
    reasons: dict[str, list[str]] = {}
    for name, why in sorted(WITHOUT.items()):
        reasons.setdefault(why, []).append(f"`{name}`")
    others = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return (
        "All of these were also saved with their real processors, loaded again and asked through `--model FOLDER`, but "
        f"for {others}."
    )


def _row(family: Family) -> str:
    checks = "all"
    if family.broken:
        checks = "all but " + "; ".join(f"{name} ({why})" for name, why in family.broken.items())
    checks += "".join(f"; none with {version} ({why})" for version, why in family.unrun.items())
    cells = [f"`{family.name}`", SEEN[family.visual], INPUTS[family.inputs], family.decoder, checks]
    assert family.broken.keys() <= CHECKS.keys()
    return f"| {' | '.join(cells)} |"


def _which(layers: str) -> str:
    return f"layers of type `{layers}`: " if layers else ""


def around() -> tuple[str, str, str]:
    """The page before the table, the table it has, and the rest.

    Raises:
        ValueError: if it has no place for one.
    """
    text = PAGE.read_text()
    start = text.index(BEGIN) + len(BEGIN)
    end = text.index(END, start)
    return text[:start], text[start:end].strip(), text[end:]


def main() -> None:
    before, _, after = around()
    PAGE.write_text(f"{before}\n{table()}\n{after}")


if __name__ == "__main__":
    main()
