"""Paths that lead out of the demo's folder, or to what is no file: one sentence for all, and nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsesight.demo.uploads import NOT_HERE, Uploads
from sparsesight.errors import SparseSightError

SIZE = (37, 23)


@pytest.fixture
def outside(tmp_path: Path) -> tuple[Path, Path]:
    """The demo's folder, and a picture beside it."""
    folder = tmp_path / "own"
    folder.mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "secret.png")
    Image.new("RGB", SIZE).save(folder / "a.png")
    return folder, tmp_path / "secret.png"


def test_only_pictures_of_the_folder_exist(
    outside: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, secret = outside
    monkeypatch.chdir(folder)
    os.symlink(secret, folder / "link.png")
    os.symlink(folder.parent, folder / "up")
    os.symlink(folder / "loop.png", folder / "loop.png")
    os.symlink(folder / "a.png", folder / "own.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "dir.png").mkdir()
    paths: list[Any] = [
        str(secret),
        f"{folder}/../secret.png",
        f"{folder}/link.png",
        f"{folder}/up/secret.png",
        f"{folder}/loop.png",
        f"{folder}/pipe.png",
        f"{folder}/dir.png",
        f"{folder}/no.png",
        f"{folder}",
        f"{folder}-other/a.png",
        "a.png",
        "",
        "~/a.png",
        f"file://{folder}/a.png",
        f"{folder}/a.png\0.txt",
        f"{folder}/" + "x" * 5_000,
        "/dev/stdin",
        "/proc/self/environ",
        "http://127.0.0.1/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "\ud800",
        b"a.png",
        5,
        ["a.png"],
        {"path": f"{folder}/a.png"},
        None,
    ]
    desk = Uploads(folder)
    for path in paths:
        said = {tried_upload(desk, {"path": path})} | {tried_upload(desk, path if path is not None else {})}
        assert said == ({NOT_HERE} if path != paths[-2] else {NOT_HERE, ""}), path
        if isinstance(path, str):
            for look in (desk.check, desk.read):
                with pytest.raises(SparseSightError) as caught:
                    look(path)
                assert str(caught.value) == NOT_HERE
    assert desk.read(folder / "own.png").size == SIZE
    assert tried_upload(desk, {"path": f"{folder}/a.png", "url": "http://elsewhere/b.png"}) == ""


def tried_upload(desk: Uploads, upload: Any) -> str:
    try:
        desk.path_of(upload)
    except SparseSightError as error:
        return str(error)
    return ""
