"""What the README and the guide show runs as it is shown."""

from __future__ import annotations

import importlib.util
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from sparsesight import METHODS, sparsify, visual_tokens
from sparsesight.bundled import MODEL_PATH, default_picture
from sparsesight.commands.cli import WrongUse, app
from sparsesight.commands.options import choose_budgets, choose_methods
from sparsesight.eval.lmms.benchmarks import BENCHMARKS
from sparsesight.eval.sweep import make_cells, same_retain
from sparsesight.methods import is_published
from sparsesight.methods import parse as parse_method
from tests.docs.blocks import python_blocks
from tests.hf import spliced_llama, tiny

ROOT = Path(__file__).resolve().parent.parent


def blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in found]


def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """All of its Python: the part about the reader's model with the bundled one, the client's in tests/vllm."""
    names: dict[str, Any] = {}
    for block in python_blocks("README.md"):
        if "needs a server" not in block.note:
            code = block.code.replace("llava-hf/llava-1.5-7b-hf", str(MODEL_PATH))
            exec(code.replace("photo.jpg", str(default_picture())), names)
    said = capsys.readouterr().out
    assert "['H']" in said and said.count("visual tokens per layer") == 2 and "passed the first stage" in said


def test_readme_is_read_in_three_minutes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"<details>.*?</details>", "", text, flags=re.S).split()) <= 1300


def test_a_new_method_by_the_guide() -> None:
    (code,) = blocks("AGENTS.md")
    names: dict[str, Any] = {"__name__": "guide"}
    imports = "import torch\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    imports += "from sparsesight import Method\n"
    exec(compile(imports + code, "AGENTS.md", "exec", dont_inherit=True), names)
    model = tiny.model()
    prompt = tiny.inputs(tiny.processor(), tiny.SAMPLES)
    kept = []
    for method in (names["LastToken"], METHODS["last-token"], METHODS["random"]):
        with sparsify(model, method(retain=0.4, layers=(1, 3))) as run, torch.no_grad():
            model(**prompt)
        kept.append([[sample.tolist() for sample in stage] for stage in run.kept])
    guide, own, other = kept
    assert guide == own != other and len(guide) == 2


def test_models_outside_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines for LLaVA's and Mini-Gemini's code, on a stand-in written in their manner."""
    generate, forward, use, pieces, clip = blocks("docs/outside-transformers.md")
    names: dict[str, Any] = {
        "torch": torch,
        "visual_tokens": visual_tokens,
        "IGNORE_INDEX": spliced_llama.IGNORE_INDEX,
    }
    exec(generate + forward, names)
    kind = type("Llama", (names["WithPictures"], spliced_llama.SplicedLlama), {})
    model = names["model"] = spliced_llama.spliced_llama(kind)
    names["ids"], names["attention_mask"], names["images"] = spliced_llama.prompt()
    exec(use, names)
    assert [s.visual_tokens for s in names["run"].report.samples] == [36, 72, 0]
    assert len(names["run"].kept) == 2 and names["output"].shape == (3, 4)
    kept = names["run"].kept
    with sparsify(model, retain=0.4, visual_mask="per call") as run, torch.no_grad():
        logits = names["score"](model, names["ids"], names["images"], names["attention_mask"])
    for old, new in zip(kept, run.kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert torch.equal(logits[:, -1].argmax(-1), names["output"][:, 0])
    names["before"], names["after"] = torch.randn(3, 32), torch.randn(6, 32)
    names["language_model"] = spliced_llama.spliced_llama()
    names["clip"] = torch.randn(4, 9, 32)
    exec(pieces + clip, names)
    said = capsys.readouterr().out
    assert "visual tokens per layer" in said and "frames=(9, 9, 9, 9)" in said


def test_costs_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of docs/costs.md prints the block of text that follows it."""
    text = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", text, re.S | re.M)
    assert len(pairs) == len(blocks("docs/costs.md")) == 6
    names: dict[str, Any] = {}
    for code, shown in pairs:
        exec(code, names)
        assert capsys.readouterr().out == shown


def shown_commands(name: str) -> list[list[str]]:
    """Arguments of every ``sparsesight`` that a page shows as a block of its own."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(
        r"^    (?:[A-Z_]+=\S+ )*(?:.*-m sparsesight|sparsesight) (\w.*?)(?: > .*)?$", text, re.M
    )
    return [shlex.split(arguments, comments=True) for arguments in found]


def parse(command: Any, arguments: list[str]) -> None:
    command.make_parser(command.context_class(command)).parse_args(list(arguments))


@pytest.mark.parametrize(
    "page",
    ["README.md", "benchmarks/README.md", "docs/benchmarks.md", "docs/reproduce-llava.md", "docs/sweeps.md"],
)
def test_commands_shown_have_the_options_they_are_given(page: str) -> None:
    known = typer.main.get_command(app)
    for name, *arguments in shown_commands(page):
        parse(known.commands[name], arguments)  # type: ignore[attr-defined]


def test_what_is_to_be_reproduced_exists() -> None:
    published = set()
    for _, *arguments in shown_commands("docs/reproduce-llava.md"):
        given = dict(pairwise(arguments))
        names = [name for name in choose_methods(given.get("--methods", "dense"), {}) if name != "dense"]
        budgets = choose_budgets(given.get("--retain"), {})
        # On LLaVA-1.5's sizes; the published settings have these budgets, or this raises.
        cells = make_cells(names, budgets, parse_method, same_retain(576, 32))
        published |= {(cell.name, cell.retain) for cell in cells if is_published(cell.name)}
        assert set(given.get("--tasks", "gqa").split(",")) <= set(BENCHMARKS)
    names = ("sparsevlm:published", "sparsevlm+:published", "visionzip:published")
    assert {(name, budget) for name in names for budget in (192, 128, 64)} <= published


def test_an_option_that_is_gone_would_be_seen() -> None:
    command = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    with pytest.raises(WrongUse, match="No such option"):
        parse(command, ["--method", "random"])
    assert [x[0] for x in shown_commands("docs/reproduce-llava.md")].count("eval") == 7


def test_every_method_is_in_the_guide_and_the_first_six_in_the_readme() -> None:
    guide = (ROOT / "docs/methods.md").read_text("utf-8")
    parts = re.split(r"^## ", guide, flags=re.M)
    for name, kind in METHODS.items():
        (part,) = [part for part in parts if f"\n| `{name}` |" in part]
        assert part.lower().startswith(kind.group())
    readme = (ROOT / "README.md").read_text("utf-8").split("## Methods\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([^`]*)`", readme, re.M)
    assert len(rows) == 6 and set(rows) <= set(METHODS) and f"All {len(METHODS)} methods" in readme


def test_the_reference_heads_each_method_by_its_name_under_its_group() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    reference = hooks.NAMING["reference/methods.md"]((ROOT / "docs/reference/methods.md").read_text("utf-8"))
    parts = re.split(r"^## ", reference, flags=re.M)
    for name, kind in METHODS.items():
        (part,) = [part for part in parts if f"heading: '{name} ({kind.__name__})'" in part]
        assert part.lower().startswith(kind.group())
    table = hooks.NAMING["methods.md"]((ROOT / "docs/methods.md").read_text("utf-8"))
    assert "| [`fastv`](reference/methods.md#sparsesight.methods.FastV) |" in table
