"""``.ci/run``: the demo's tests are never skipped there for want of a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci/run"
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(
    BASH is None or not SCRIPT.exists(), reason="needs bash and a checkout"
)  # .ci/ is not in the source archive


def ran(folder: Path, fails: int) -> subprocess.CompletedProcess[str]:
    """The script on a machine without Chromium, where apt-get fails so often."""
    stubs = {
        "id": "echo 0",
        "make": 'echo "make $* with TESTS_NEED_BROWSER=$TESTS_NEED_BROWSER"',
        "apt-get": f"""
            echo "$@" >> {folder}/log
            [ "$(grep -c update {folder}/log)" -gt {fails} ] || exit 100
            [[ "$*" == *install*chromium* ]] || exit 0
            printf '#!/bin/sh\\n' > {folder}/chromium && chmod +x {folder}/chromium
        """,
    }
    for name, text in stubs.items():
        (folder / name).write_text(f"#!{BASH}\n{text}\n")
        (folder / name).chmod(0o755)
    for name in ("bash", "dirname", "timeout", "grep", "chmod"):
        (folder / name).symlink_to(shutil.which(name) or name)
    return subprocess.run(
        [str(BASH), str(SCRIPT)], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("fails", [0, 1])
def test_chromium_is_installed_at_the_second_try_at_the_latest(tmp_path: Path, fails: int) -> None:
    result = ran(tmp_path, fails)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "make test with TESTS_NEED_BROWSER=1\n"
    assert (tmp_path / "log").read_text().count("update") == 1 + fails and os.access(
        tmp_path / "chromium", os.X_OK
    )


def test_without_chromium_it_fails_in_one_sentence(tmp_path: Path) -> None:
    result = ran(tmp_path, 9)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: Chromium") and result.stderr.count("\n") == 1
    assert (tmp_path / "log").read_text().count("update") == 2
