"""``sparsesight doctor`` tells what is there, what is not, and what is broken."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomllib
import torch
import transformers
from packaging.requirements import Requirement

import sparsesight
from sparsesight import SparseSightError
from sparsesight.commands import environment
from sparsesight.hf import loading
from tests.commands.command_line import plain_surroundings, run  # noqa: F401

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
FOR_DEVELOPERS = {"dev", "docs", "harness"}
BUILDS = cache(metadata.packages_distributions)  # it reads all of them, which takes a second


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this tree were installed with what its pyproject.toml says."""
    stated = list(PROJECT["dependencies"])
    for extra, wanted in PROJECT["optional-dependencies"].items():
        for text in wanted:
            name, _, marker = text.partition(";")  # some have a marker of their own
            stated.append(f'{name}; {f"({marker}) and " if marker else ""}extra == "{extra}"')
    monkeypatch.setattr(metadata, "requires", lambda name: stated)
    monkeypatch.setattr(metadata, "packages_distributions", BUILDS)


def trial(*_: Any) -> environment.Trial:
    return environment.Trial("What?", "this", "that")


def test_every_extra_has_its_use_told() -> None:
    assert set(environment.EXTRAS) == set(PROJECT["optional-dependencies"]) - FOR_DEVELOPERS


@pytest.mark.usefixtures("installed")
def test_all_is_well_here() -> None:
    result = run("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["problems"] == []
    versions = {p["name"]: p["version"] for p in found["packages"]}
    assert versions["torch"] == metadata.version("torch")
    assert versions["transformers"] == transformers.__version__
    assert {Requirement(r).name for r in PROJECT["dependencies"]} <= set(versions)
    assert found["devices"][0].startswith("cpu: ")
    assert len(found["devices"]) == 1 + torch.cuda.device_count()
    able = {a["name"] for a in found["attention"] if not a["problem"]}
    assert {"eager", "sdpa", "flex_attention"} <= able
    assert ("flash_attention_2" in able) == transformers.utils.is_flash_attn_2_available()
    answer = sparsesight.bundled.picture_questions()["scene-7000001.png"][0]["answer"]
    assert found["bundled"]["dense"] == answer


@pytest.mark.usefixtures("installed")
def test_defaults_from_variables_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "try_bundled", trial)
    assert json.loads(run("doctor", "--json").stdout)["defaults"] == {}
    result = run("doctor", SPARSESIGHT_DTYPE="bfloat16", RETAIN_TOKN="64")
    assert "defaults from variables" in result.stdout
    said = " ".join(result.stdout.split())
    assert "SPARSESIGHT_DTYPE bfloat16" in said and "RETAIN_TOKN 64" in said


WRONG_DEFAULTS = {
    "SPARSESIGHT_MODEL": ("no/such/folder", "does not exist"),
    "SPARSESIGHT_DEVICE": ("cuda:77", "is not available here"),
    "SPARSESIGHT_DTYPE": ("float23", "did you mean"),
    "SPARSESIGHT_MODLE": ("smol", "no variable of SparseSight; did you mean 'SPARSESIGHT_MODEL'"),
    "SPARSESIGHT_METHOD": ("fastv", "no variable of SparseSight: give --method on the command line"),
    "RETAIN_TOKN": ("many", "RETAIN_TOKN"),
    "USE_VERSION": ("3_0", "USE_VERSION"),
}


@pytest.mark.usefixtures("installed")
def test_defaults_that_no_command_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(environment.DEFAULTS) <= set(WRONG_DEFAULTS)
    monkeypatch.setattr(environment, "try_bundled", trial)
    result = run("doctor", "--json", **{name: value for name, (value, _) in WRONG_DEFAULTS.items()})
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert set(found["wrong_defaults"]) == set(WRONG_DEFAULTS) and len(found["problems"]) == 7
    for name, (_, part) in WRONG_DEFAULTS.items():
        assert part in found["wrong_defaults"][name], name
    result = run("doctor", SPARSESIGHT_MODEL="no/such/folder")
    assert "does not exist" in " ".join(result.stdout.split())


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("model", ["bundled", "a folder", "an empty folder"])
def test_the_default_model(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "try_bundled", trial)
    (tmp_path / "empty").mkdir()
    folder = {"a folder": sparsesight.bundled.MODEL_PATH, "an empty folder": tmp_path / "empty"}
    result = run("doctor", "--json", SPARSESIGHT_MODEL=str(folder.get(model, model)))
    assert (result.exit_code == 0) == (model != "an empty folder")


@pytest.mark.usefixtures("installed")
def test_what_a_missing_extra_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"matplotlib", "gradio"}
    real = metadata.version

    def version(name: str) -> str:
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    monkeypatch.setattr(environment, "try_bundled", trial)
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    said = " ".join(result.stdout.split())
    for name in ("plots", "demo"):
        assert f"{environment.EXTRAS[name]}; pip install 'sparsesight[{name}]'" in said
    assert "no problems found" in said and "sparse, 128 of 576 visual tokens: that" in said
    assert not re.search(r"\d (ms|s)\b", said)  # one run tells nothing about time


@pytest.mark.usefixtures("installed")
def test_a_version_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.37.0" if name == "transformers" else real(name))
    result = run("doctor")
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "4.37.0 >=5.16 is needed: pip install 'transformers>=5.16'" in said
    assert "does not work: transformers: >=5.16 is needed" in said and "not tried" in said


@pytest.mark.usefixtures("installed")
def test_a_torchvision_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise SparseSightError("torchvision 0.1 does not load (why): pip install it")

    real = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: "0.1" if name == "torchvision" else real(name))
    monkeypatch.setattr(environment, "import_torchvision", broken)
    result = run("doctor")
    assert result.exit_code == 1 and "not tried" in result.stdout
    assert "does not work: torchvision: torchvision 0.1 does not load (why): pip" in result.stdout


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kernels", [True, False])
def test_what_is_said_of_torchvision(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kernels it works in the commands, and elsewhere after one call."""
    real = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: "0.1" if name == "torchvision" else real(name))
    monkeypatch.setattr(environment, "import_torchvision", lambda: None)
    monkeypatch.setattr(environment, "without_kernels", lambda: not kernels)
    assert ("sparsesight.import_torchvision()" in environment.torchvision().note) != kernels
    monkeypatch.setattr(environment, "_version", lambda name: None)
    absent = environment.torchvision()
    assert not absent.problem and "Qwen-VL" in absent.note and "pip install torchvision" in absent.note


def test_a_package_of_another_name() -> None:
    builds = BUILDS()
    assert environment._version("PIL") == metadata.version(builds["PIL"][0])
    assert environment._version("no-such-package") is None


def test_run_from_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert environment.requirements() == ([], {})


@pytest.mark.usefixtures("installed")
def test_a_model_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk\nis gone")

    monkeypatch.setattr(loading, "load_model", broken)
    result = run("doctor")
    assert result.exit_code == 1 and "bundled model: does not run: OSError: the disk is gone" in result.stdout
