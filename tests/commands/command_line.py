"""Run the command line in this process, and look at what it printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import sparsesight
from sparsesight import bundled
from sparsesight.bench import ceilings, runs
from sparsesight.commands.cli import app
from sparsesight.commands.options import DEFAULTS

VARIABLES = ("RETAIN_TOKN", "RETAIN_TOKEN", "USE_VERSION", *DEFAULTS)
PICTURE = bundled.default_picture()
QUESTION = bundled.picture_questions()[PICTURE.name][0]["question"]


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variables of the developer's own, a folder of one's own, one thread (the matrices are tiny), small buffers."""
    monkeypatch.setitem(
        ceilings.BUFFER, "cpu", 1 << 20
    )  # what bench copies, many times over, to time the memory
    monkeypatch.setattr(runs, "SHARES", 1)  # what it repeats for a median; no test looks at speed
    for name in (*VARIABLES, "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*args: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(args), env=environment)


def ask(*args: str, **environment: str) -> Result:
    return run("ask", "--max-new-tokens", "4", *args, **environment)


def asked(*args: str, **environment: str) -> dict[str, Any]:
    """The object that ``ask --json`` prints; nothing else may be on standard output."""
    result = ask("--json", *args, **environment)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result) -> str:
    """The one line of a refusal."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    return result.stderr


def independent(question: str, method: str | None = None, **options: Any) -> tuple[str, list[list[int]]]:
    """Answer and kept tokens of the bundled model, without the command line's code."""
    model, processor = bundled.load()
    prompt = f"USER: <image>\n{question} ASSISTANT:"
    inputs = processor(text=prompt, images=Image.open(PICTURE), return_tensors="pt")
    kept = []
    if method is None:
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    else:
        with sparsesight.sparsify(model, method, **options) as handle:
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        kept = [stage[0].tolist() for stage in handle.kept]
    text = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip(), kept
