"""The origin of numbers: the commit of this package, and the weights of the model."""

from __future__ import annotations

import hashlib
import subprocess  # nosec B404
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .bundled import BUNDLED, MODEL_PATH, SMOL
from .files import sha256

PACKAGE = Path(__file__).parent


@cache
def commit(package: Path = PACKAGE) -> str | None:
    """The commit that the package runs from, with ``+changes`` behind it where its files differ from it.

    None where it was installed: a folder of packages may lie inside of somebody's repository, but is no part of it.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return None if not head else f"{head}+changes" if changes else head


def short(commit: str) -> str:
    """As it is read, ``ed204180abcd`` or ``ed204180abcd+changes``."""
    name, changed, _ = commit.partition("+")
    return name[:12] + ("+changes" if changed else "")


def weights(model: Any, name: str) -> str:
    """What identifies the weights of a model: of one of this package the SHA-256 of its file, of one from the Hub its
    revision, of any other a hash of some of its numbers, since its files may be large."""
    if name == SMOL:  # large, and verified when it was loaded
        from .bundled.smol.cached import weights_sum

        return f"sha256 {weights_sum()}"
    if name == BUNDLED:
        return f"sha256 {sha256(MODEL_PATH / 'model.safetensors')}"
    revision = getattr(model.config, "_commit_hash", None)
    return f"fingerprint {weights_fingerprint(model)}" if revision is None else f"revision {revision}"


def weights_fingerprint(model: Any) -> str:
    """A hash of the first numbers of every weight: another checkpoint has another."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        for part in plain_tensors(value):
            head = part.detach().flatten()[:8].float().cpu().tolist()
            digest.update(f"{name} {tuple(value.shape)} {head}".encode())
    return digest.hexdigest()[:16]


def plain_tensors(value: Any) -> Iterator[Any]:
    """A weight as plain tensors: one that torchao quantised is a class around several, with few operations."""
    if hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from plain_tensors(getattr(value, name))
    else:
        yield value


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where it fails or is not there."""
    try:
        # A fixed command, and no shell.
        done = subprocess.run(  # nosec B603 B607
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
