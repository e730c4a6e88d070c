"""The last lines of `make test`: what pytest counted in each environment, and in all."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def count(report: Path) -> Counter[str]:
    """Of one of pytest's JUnit files."""
    found = Counter[str]()
    for suite in ElementTree.parse(report).iter("testsuite"):
        total, *others = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
        found.update(
            dict(zip(("failed", "errors", "skipped"), others, strict=True)), passed=total - sum(others)
        )
    return found


def written(found: Counter[str]) -> str:
    """As pytest writes it: ``12 passed, 3 skipped``."""
    return ", ".join(
        f"{found[name]} {name}" for name in ("failed", "passed", "errors", "skipped") if found[name]
    )


def main(folder: Path) -> None:
    reports = sorted(folder.glob("*.xml"))
    for report in reports:
        print(f"{report.stem}: {written(count(report))}")
    print(written(sum(map(count, reports), Counter[str]())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
