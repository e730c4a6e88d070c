"""The assembled model in the user's cache folder: made when it is missing, verified whenever it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from ...errors import SparseSightError
from ...file_lock import ProcessLock
from ...files import read_json, replace_file, sha256
from .. import smol

CONTENTS = "contents.json"  # of the assembled folder: what it is made of, and the SHA-256 of every file


def folder() -> Path:
    """The model as a folder for `from_pretrained`, which is assembled (about 20 s, 300 MB) if the cache lacks it.

    Raises:
        SparseSightError: the extra `smol` is not installed, its file or what came of it is not the one that was
            measured, or the cache folder cannot be written.
    """
    made_of = ingredients()
    cached = _place(made_of)
    if not _whole(cached, made_of):
        _make(cached, made_of)
    return cached


def weights_sum() -> str:
    """SHA-256 of its weights, as they were verified when the model was loaded.

    Raises:
        SparseSightError: it was not loaded here.
    """
    sums: dict[str, str] = read_json(_place(ingredients()) / CONTENTS, dict)["files"]
    return sums["model.safetensors"]


def _place(made_of: dict[str, str]) -> Path:
    return cache_folder() / f"smol-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/sparsesight`, by default `~/.cache/sparsesight`.

    Raises:
        SparseSightError: the user has no home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "sparsesight"
    except RuntimeError:
        raise SparseSightError(
            "the smol model needs a cache folder, and there is no home directory: set XDG_CACHE_HOME"
        ) from None


def ingredients() -> dict[str, str]:
    """SHA-256 of what the model is made of, by what it is; `weights` is the one that its weights must have."""
    released = read_json(smol.RELEASED, dict)
    eyes, code = smol.TOWER / "model.safetensors", smol.HERE / "assemble.py"
    files = {"delta": smol.DELTA, "template": smol.TEMPLATE, "tower": eyes, "code": code}
    return {**released, **{name: sha256(file) for name, file in files.items()}}


def _whole(cached: Path, made_of: dict[str, str]) -> bool:
    """Whether a folder holds the files that were written into it, made of the same parts."""
    try:
        contents = read_json(cached / CONTENTS, dict)
    except SparseSightError:  # not there, or damaged
        return False
    files = contents.get("files")
    if contents.get("made_of") != made_of or not isinstance(files, dict):
        return False
    return all((cached / name).is_file() and sha256(cached / name) == told for name, told in files.items())


def _make(cached: Path, made_of: dict[str, str]) -> None:
    """Assemble the model; a process that comes meanwhile waits, and takes what is there."""
    # Imported here because this takes seconds, and a model that is cached needs none of it.
    from .assemble import assemble, weights_digest
    from .base import INSTALL, base_file, read_base

    file = base_file()
    if sha256(file) != made_of["base"]:
        raise SparseSightError(
            f"{file} is not the file that the smol model was trained on: {INSTALL} --force-reinstall"
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with ProcessLock(cached.with_suffix(".lock")), _temporary(cached) as folder:
            if _whole(cached, made_of):
                return
            fresh = Path(folder) / "model"
            assemble(read_base(file), smol.DELTA, fresh)
            if weights_digest(fresh) != made_of["weights"]:
                raise SparseSightError(
                    "the smol model came out with other weights than those that were measured: install gguf 0.19"
                )
            sums = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
            replace_file(fresh / CONTENTS, json.dumps({"made_of": made_of, "files": sums}, indent=2))
            shutil.rmtree(cached, ignore_errors=True)
            os.replace(fresh, cached)
    except OSError as error:
        raise SparseSightError(
            f"the smol model cannot be written to {cached} ({error.strerror or error}): make room there, or set "
            "XDG_CACHE_HOME to another folder"
        ) from None


def _temporary(cached: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder `NAME.RANDOM` beside `cached`; those that killed processes left are deleted. Only under the lock."""
    for left in cached.parent.glob(f"{cached.name}.*/"):
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(dir=cached.parent, prefix=f"{cached.name}.")
