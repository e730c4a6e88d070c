"""The numbers at the end of `make test`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.count import main


def test_numbers_of_all_reports_are_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = tmp_path / "test_it.py"
    checks.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip()\ndef test_c(): assert False\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", str(checks), f"--junit-xml={tmp_path}/results/suite.xml"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    shutil.copy(tmp_path / "results/suite.xml", tmp_path / "results/vllm.xml")
    main(tmp_path / "results")
    one, two = "1 failed, 1 passed, 1 skipped", "2 failed, 2 passed, 2 skipped"
    assert capsys.readouterr().out.splitlines() == [f"suite: {one}", f"vllm: {one}", two]
