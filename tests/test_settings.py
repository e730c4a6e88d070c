"""Settings files: one object for Python, the commands and vLLM, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsesight import Compose, FastV, Halves, Narrow, SparseSightError, SparseVLMPlus, sparsify
from sparsesight.methods import Method
from sparsesight.settings import read_settings, settings_json
from sparsesight.vllm.config import method_of
from tests.commands.command_line import ask, asked, plain_surroundings, refused, run  # noqa: F401

METHODS = [SparseVLMPlus(0.25), Halves(83, asked=0.25), FastV(0.5, (1,)), Compose(Halves(90), Narrow(64))]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_file_is_read_alike_everywhere(method: Method, tmp_path: Path) -> None:
    file = tmp_path / "sparsesight.json"
    file.write_text(settings_json(method, {"model": "bundled"}))
    assert read_settings(file) == method
    assert method_of(json.loads(file.read_text())) == method  # as vLLM gets it


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["no", "JSON"]),
        ("[]", ["not a JSON object"]),
        ('{"sparsesight": 64}', ['"sparsesight" is 64', "give an object"]),
        ("{}", ['"sparsesight" is None']),
        ('{"sparse_sight": {}}', ["'sparse_sight'", "sparsesight"]),
        ('{"sparsesight": {"retian": 64}}', ["retian", "retain"]),
        ('{"sparsesight": {"retain": 0}}', ["retain=0", "at least 1"]),
        ('{"sparsesight": {"retain": "many"}}', ["retain 'many'", "not a budget"]),
        ('{"sparsesight": {"method": "halfs"}}', ["'halfs'", "did you mean 'halves'"]),
        ('{"sparsesight": {"kv_groups": true}}', ["kv_groups"]),
        (f'{{"about": {{"x": "{"x" * (1 << 20)}"}}}}', ["the limit is 1,048,576"]),
    ],
)
def test_what_is_wrong_is_named(content: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(content)
    with pytest.raises(SparseSightError) as error:
        read_settings(file)
    assert str(file) in str(error.value) and len(str(error.value)) < 2000
    for word in words:
        assert word.lower() in str(error.value).lower(), word


def test_no_file(tmp_path: Path) -> None:
    for name in (tmp_path / "missing.json", "x" * 5000, "nul\0"):
        with pytest.raises(SparseSightError, match=r"settings .* cannot be read"):
            read_settings(name)
    with pytest.raises(SparseSightError, match="not a regular file"):
        read_settings(tmp_path)
    for wrong in (5, {"sparsesight": {"method": "halves"}}, b"x", ""):
        with pytest.raises(SparseSightError, match=r"settings=.*: give the path"):
            read_settings(wrong)  # type: ignore[arg-type]
    marked = tmp_path / "marked.json"
    marked.write_text('{"sparsesight": {"method": "halves"}}', "utf-8-sig")
    assert read_settings(marked) == Halves()


def test_sparsify_takes_a_file_or_a_method(tmp_path: Path, bundled_model: Any) -> None:
    file = tmp_path / "s.json"
    file.write_text(settings_json(Halves(0.25), {}))
    with sparsify(bundled_model, settings=file) as run:
        assert run.method == Halves(0.25)
    for given in ({"retain": 64}, {"method": "fastv"}, {"layers": (2,)}):
        with pytest.raises(SparseSightError, match=f"settings=.*{next(iter(given))} is set by the file"):
            sparsify(bundled_model, settings=str(file), **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundled_model() -> Any:
    from sparsesight import bundled

    return bundled.load()[0]


def test_the_commands_take_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(settings_json(Halves(83), {}))
    assert asked("--settings", str(file))["method"] == Halves(83).to_dict()
    assert "the file sets --retain" in refused(ask("--settings", str(file), "--retain", "64"))
    assert "the file sets --method" in refused(
        run("serve", "bundled", "--settings", str(file), "--method", "fastv")
    )
    few = ("--tasks", "scenes", "--limit", "3", "--out", str(tmp_path / "run"), "--json")
    result = run("eval", *few, "--settings", str(file))
    assert result.exit_code == 0, result.stderr
    cells = json.loads(result.stdout)["tasks"]["scenes"]["cells"]
    assert list(cells) == ["dense", "halves(retain=83)"]
    assert cells["halves(retain=83)"]["method"] == Halves(83).to_dict()
