"""A commit is named where there is one, and nothing else is taken for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from torch import nn

from sparsesight import bundled, provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a package in it."""
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "src")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    return package


def git(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", str(folder), *arguments], text=True).strip()


def test_a_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert provenance.commit.__wrapped__(checkout) == head and provenance.short(head) == head[:12]
    (checkout.parents[1] / "notes").write_text("beside the package")
    assert provenance.commit.__wrapped__(checkout) == head
    (checkout / "__init__.py").write_text("changed = True")
    assert provenance.commit.__wrapped__(checkout) == f"{head}+changes"
    assert provenance.short(f"{head}+changes") == f"{head[:12]}+changes"


def test_what_is_no_checkout(checkout: Path, tmp_path: Path) -> None:
    """Such as an environment inside of somebody's repository."""
    installed = checkout.parents[1] / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert provenance.commit.__wrapped__(installed) is None


def test_no_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__(checkout) is None


def test_weights_of_other_models() -> None:
    """By the Hub's revision where it is known, else by their numbers."""
    model, _ = bundled.load()
    assert provenance.weights(model, "bundled").startswith("sha256 ")
    before = provenance.weights(model, "some/model")
    assert before == f"fingerprint {provenance.weights_fingerprint(model)}"
    nn.init.zeros_(next(model.parameters()))
    assert provenance.weights(model, "some/model") != before
    model.config._commit_hash = "abc"
    assert provenance.weights(model, "some/model") == "revision abc"
