"""Tokenizers of a checkpoint that do not end, fill the memory or give up: one sentence before a model is built."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError
from sparsesight.hf import checkpoint, tokenizer_trial
from sparsesight.hf.loading import load_model
from tests.security.test_model_folders import changed, write

START = {"SpecialToken": {"id": "<s>", "type_id": 0}}
FIRST, SECOND = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")


def split(pattern: str) -> Callable[[Path], None]:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    return changed("tokenizer.json", pre_tokenizer=rule)


def replacing(pattern: dict[str, str], content: str, times: int = 1) -> Callable[[Path], None]:
    rule = {"type": "Replace", "pattern": pattern, "content": content}
    return changed("tokenizer.json", normalizer={"type": "Sequence", "normalizers": [rule] * times})


CASES: dict[str, Callable[[Path], None]] = {
    "a slow pattern that splits": split("(a+)+$"),
    "a slow pattern that is replaced": replacing({"Regex": "(a|aa)+$"}, "x"),
    "text that grows": replacing({"String": "a"}, "a" * 1000, 3),
    "text that doubles": replacing({"String": "a"}, "aa", 60),
    "tokens without end": changed(
        "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": [START] * 300_000 + [FIRST],
            "pair": [FIRST, SECOND],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1] * 100, "tokens": ["<s>"] * 100}},
        },
    ),
}


TRIED_BELOW = "text that grows"


@pytest.mark.parametrize(
    "case", [pytest.param(x, marks=pytest.mark.slow if x == TRIED_BELOW else ()) for x in CASES]
)
def test_a_tokenizer_that_does_harm(
    folder: Path, case: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tokenizer_trial, "SECONDS", 2)
    CASES[case](folder)
    start = time.monotonic()
    with pytest.raises(SparseSightError, match="cannot read a page of plain text") as caught:
        load_model(str(folder), "cpu")
    assert time.monotonic() - start < 60 and len(str(caught.value)) < 500
    assert capfd.readouterr().err == ""  # a library that gives up writes pages, which are no sentence


def test_more_special_tokens_than_can_be_added(folder: Path) -> None:
    changed("tokenizer_config.json", extra_special_tokens=[f"<{i}>" for i in range(50_000)])(folder)
    with pytest.raises(SparseSightError, match="50,000 extra_special_tokens"):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize("found", [TRIED_BELOW, "special tokens"])
def test_a_model_of_the_hub_is_tried_as_well(
    folder: Path, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import hub

    def cached(model: str, file: str, **options: Any) -> str | None:
        return str(folder / file) if (folder / file).exists() else None

    monkeypatch.setattr(tokenizer_trial, "SECONDS", 2)
    monkeypatch.setattr(hub, "cached_file", cached)
    checkpoint.check_hub("owner/name", "it")
    if found == "special tokens":
        config = json.dumps({"additional_special_tokens": ["x"] * 10_001})
        write("tokenizer_config.json", config)(folder)
    else:
        CASES[found](folder)
    with pytest.raises(SparseSightError, match=r"special_tokens|plain text"):
        checkpoint.check_hub("owner/name", "it")


def test_no_file_of_the_working_folder_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizers.py").write_text("import os\nos.mkdir('ran')\n")
    (folder / "resource.py").write_text("import os\nos.mkdir('ran')\n")
    monkeypatch.chdir(folder)
    tokenizer_trial.check_tokenizer(folder / "tokenizer.json", "it")
    assert not (folder / "ran").exists()
