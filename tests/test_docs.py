"""What the README and the guide show runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsesight import METHODS, sparsify, visual_tokens
from tests.hf import splicing, tiny

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for code in blocks("README.md"):
        exec(code, names)
    said = capsys.readouterr().out
    assert "['H']" in said and "equal tokens" in said and "passed the first stage" in said
    assert said.splitlines()[-1].strip() == "white ring"


def test_a_new_method_by_the_guide() -> None:
    (code,) = blocks("AGENTS.md")
    names: dict[str, Any] = {"__name__": "guide"}
    imports = "import torch\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    imports += "from sparsesight import Method\n"
    exec(compile(imports + code, "AGENTS.md", "exec", dont_inherit=True), names)
    model = tiny.model()
    prompt = tiny.inputs(tiny.processor(), tiny.SAMPLES)
    kept = []
    for method in (names["LastToken"](retain=0.4), METHODS["last-token"](retain=0.4)):
        with sparsify(model, method) as run, torch.no_grad():
            model(**prompt)
        kept.append([tokens.tolist() for stage in run.kept for tokens in stage])
    assert kept[0] == kept[1] and any(kept[0])


def test_models_outside_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines for LLaVA's and Mini-Gemini's code, on a stand-in written in their manner."""
    generate, forward, use, pieces, clip = blocks("docs/outside-transformers.md")
    names: dict[str, Any] = {
        "torch": torch,
        "visual_tokens": visual_tokens,
        "IGNORE_INDEX": splicing.IGNORE_INDEX,
    }
    exec(generate + forward, names)
    kind = type("Llama", (names["WithPictures"], splicing.SplicedLlama), {})
    model = names["model"] = splicing.spliced_llama(kind)
    names["ids"], names["attention_mask"], names["images"] = splicing.prompt()
    exec(use, names)
    assert [s.visual_tokens for s in names["run"].report.samples] == [36, 72, 0]
    assert len(names["run"].kept) == 3 and names["output"].shape == (3, 4)
    kept = names["run"].kept
    with sparsify(model, "sparsevlm+", retain=0.4, visual_mask="per call") as run, torch.no_grad():
        logits = names["score"](model, names["ids"], names["images"], names["attention_mask"])
    for old, new in zip(kept, run.kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert torch.equal(logits[:, -1].argmax(-1), names["output"][:, 0])
    names["before"], names["after"] = torch.randn(3, 32), torch.randn(6, 32)
    names["language_model"] = splicing.spliced_llama()
    names["clip"] = torch.randn(4, 9, 32)
    exec(pieces + clip, names)
    said = capsys.readouterr().out
    assert "equal tokens" in said and "frames=(9, 9, 9, 9)" in said


def test_every_method_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in METHODS)
