"""Every family as a checkpoint on disk with its real processor, asked through `--model FOLDER`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError, import_torchvision
from tests.commands.command_line import asked, plain_surroundings  # noqa: F401
from tests.hf.families import ALL
from tests.hf.families.base import Family, picture
from tests.hf.families.case import BEFORE_DECODER, INSIDE
from tests.hf.families.processors import WITHOUT, processor_of

# Of these the processors need torchvision, and many people use them.
KNOWN = (
    "cosmos3_edge",  # its processor has to be told to make token types
    "glm4v",
    "internvl",
    "llava-pixtral",
    "llava_onevision",
    "mistral3",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
)
EVERY = [family for family in ALL if family.name not in WITHOUT]


@lru_cache
def torchvision_missing() -> str:
    try:
        import_torchvision()
    except SparseSightError as error:
        return str(error)
    return ""


def method_of(family: Family, number: int) -> str:
    """Methods take turns; one stage where the decoder offers no three."""
    if family.stages:
        return "fastv"
    turns = INSIDE if "deepstack" in family.decoder else (*INSIDE, *BEFORE_DECODER)
    return turns[number % len(turns)]


def cases() -> list[Any]:
    rare = [n for n, family in enumerate(EVERY) if family.name not in KNOWN and n % 10]
    return [
        pytest.param(
            family, method_of(family, n), id=family.name, marks=[pytest.mark.slow] if n in rare else []
        )
        for n, family in enumerate(EVERY)
    ]


@pytest.mark.parametrize(("family", "method"), cases())
def test_a_saved_checkpoint_answers(family: Family, method: str, tmp_path: Path) -> None:
    if family.missing or torchvision_missing():
        pytest.skip(family.missing or torchvision_missing())
    processor, model = processor_of(family), family.build("sdpa")
    folder = tmp_path / "model"
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    picture(1, 60, 48).save(tmp_path / "picture.png")
    found = asked(
        *("--model", str(folder), "--method", method, "--retain", "0.5"),
        *(str(tmp_path / "picture.png"), "what is the red star ?"),
    )
    report = found["report"]
    assert found["model"] == str(folder) and found["dense"]["answer"] is not None
    assert report["macs_sparse"] < report["macs_dense"]
    kept = found["kept"][-1]
    assert kept and kept == sorted(set(kept))


def test_families_without_a_processor_here_are_named() -> None:
    assert WITHOUT.keys() <= {family.name for family in ALL}
