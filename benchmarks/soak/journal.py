"""What became of requests, a round after another, in a file that is only appended to: a soak that ended goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .asking import Answer, Outcome


@dataclass
class Journal:
    """The rounds of a soak, of all servers that it was sent to.

    Attributes:
        path: of the file, one line a round; None: nothing is written.
        soak: what is sent; lines of another soak are refused.
        rounds: ``server`` (its options, and when it was started), ``seconds``, ``numbers`` (of that server, so far) and
            ``outcomes`` by number of the request in the sequence.
        solo: the answers alone, on empty caches; a server that comes later must give the same.
    """

    path: Path | None
    soak: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    solo: dict[str, Answer] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path | None, soak: dict[str, Any]) -> Journal:
        """With what the file holds already; a last line that was cut off is left out.

        Raises:
            ValueError: the file is of another soak.
        """
        journal = cls(path, soak)
        text = path.read_text() if path is not None and path.exists() else ""
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            found = json.loads(line)
            if found["soak"] != soak:
                raise ValueError(f"{path} is of another soak, {found['soak']}: give another --journal")
            if "solo" in found:
                journal.solo = {name: (tokens, numbers) for name, (tokens, numbers) in found["solo"].items()}
            else:
                journal.rounds.append(found)
        if path is not None and text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1])
        return journal

    def know(self, solo: dict[str, Answer]) -> None:
        """Append the answers alone."""
        self.solo = solo
        self._append({"soak": self.soak, "solo": solo})

    def add(
        self, server: str, seconds: float, numbers: dict[str, float], outcomes: dict[int, Outcome]
    ) -> None:
        """Append a round all of whose answers have been judged."""
        line = {
            "soak": self.soak,
            "server": server,
            "seconds": round(seconds, 1),
            "numbers": numbers,
            "outcomes": {str(i): asdict(x) for i, x in outcomes.items()},
        }
        self.rounds.append(line)
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """Of all rounds, by number."""
        return {int(i): Outcome(**x) for line in self.rounds for i, x in line["outcomes"].items()}

    @property
    def seconds(self) -> float:
        """That the rounds took."""
        return float(sum(line["seconds"] for line in self.rounds))

    @property
    def servers(self) -> dict[str, int]:
        """To which servers how many requests were sent."""
        sent: dict[str, int] = {}
        for line in self.rounds:
            sent[line["server"]] = sent.get(line["server"], 0) + len(line["outcomes"])
        return sent

    @property
    def numbers(self) -> dict[str, float]:
        """Counters of /metrics, summed over servers."""
        last = {line["server"]: line["numbers"] for line in self.rounds}
        total: dict[str, float] = {}
        for numbers in last.values():
            for name, value in numbers.items():
                total[name] = total.get(name, 0.0) + value
        return total
