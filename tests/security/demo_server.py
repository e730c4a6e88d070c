"""The demo as it is served, and what it says to requests that no browser sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.commands.command_line import PICTURE, QUESTION
from tests.demo.client import config, join, upload

MARKED = {"meta": {"_type": "gradio.FileData"}}


class Server:
    """The page as it is served from a folder that has nothing to do with it, and a picture that is nobody's business.

    Attributes:
        url: of the page.
        events: of its functions, by name.
        own: an uploaded picture.
        secret: a picture in the server's current folder that only its owner may read.
    """

    def __init__(self, url: str, secret: Path) -> None:
        self.url, self.secret = url, secret
        self._config = config(url)
        self.events = {d["api_name"]: d for d in self._config["dependencies"]}
        (self.own,) = json.loads(upload(url, PICTURE.read_bytes())[1])

    def inputs(self, event: str) -> list[dict[str, Any]]:
        """The components whose values an event is sent."""
        blocks = {block["id"]: block for block in self._config["components"]}
        return [blocks[number] for number in self.events[event]["inputs"]]

    def told(self, event: str, *values: Any) -> str:
        """The last thing that the server says about an event with these first values, as text of the page."""
        found = self.events[event]
        good = [{"path": self.own, **MARKED}, QUESTION, "sparsevlm+", 64]
        if event.endswith("_1") and event != "show_1":
            good[2:4] = [["random"], [64]]
        data = [*values, *good[len(values) :], None, None, None][: len(found["inputs"])]
        lines = join(self.url, found["id"], data).splitlines()
        (last,) = [line for line in lines if "process_completed" in line]
        return str(json.loads(last.removeprefix("data: "))["output"])
