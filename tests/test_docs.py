"""What the README and the guide show runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import METHODS, sparsify
from tests.hf import tiny

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("README.md")
    exec(code, {})
    said = capsys.readouterr().out
    assert "['T']" in said and "equal tokens" in said and "passed the first stage" in said


def test_a_new_method_by_the_guide() -> None:
    (code,) = blocks("AGENTS.md")
    names: dict[str, Any] = {"__name__": "guide"}
    imports = "import torch\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    imports += "from sparsesight import Method\n"
    exec(compile(imports + code, "AGENTS.md", "exec", dont_inherit=True), names)
    model = tiny.model()
    prompt = tiny.inputs(tiny.processor(), tiny.SAMPLES)
    with sparsify(model, names["LastToken"](retain=0.4), trace=True) as run, torch.no_grad():
        model(**prompt)
    raters = run.trace[0].stage.rater
    assert raters.sum(1).tolist() == [1, 1, 0, 1] and bool(raters[[0, 1, 3], -1].all())


def test_every_method_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in METHODS)
