"""The JSON file of a benchmark: every run as soon as it is finished, so that one that was stopped goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Store:
    """Runs made with the same settings.

    Args:
        path: of the file; its runs are kept if they were made with the same settings.
        settings: JSON-ready, what numbers depend on.

    Raises:
        SystemExit: if the file was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"settings": settings, "made_with": [], "runs": []}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] != settings:
                raise SystemExit(
                    f"{path} was made with {found['settings']}, not with {settings}: name another --out"
                )
            self.data = found

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What is finished."""
        found: list[dict[str, Any]] = self.data["runs"]
        return found

    def has(self, **key: Any) -> bool:
        """Whether a run with these entries is finished."""
        return any(all(run[k] == v for k, v in key.items()) for run in self.runs)

    def made_with(self, facts: dict[str, Any]) -> None:
        """Note a machine, versions and date."""
        if facts not in self.data["made_with"]:
            self.data["made_with"].append(facts)

    def keep(self, run: dict[str, Any]) -> None:
        """Add a run and write the file; whoever stops the benchmark finds the old one or the new one, whole."""
        self.runs.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        lines = ",\n".join(f"  {json.dumps(one)}" for one in self.runs)
        head = {k: v for k, v in self.data.items() if k != "runs"}
        draft.write_text(
            json.dumps(head, indent=1)[:-2] + f',\n "runs": [\n{lines}\n ]\n}}\n', encoding="utf-8"
        )
        os.replace(draft, self.path)
