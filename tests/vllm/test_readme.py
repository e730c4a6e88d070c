"""What the README says of serving: its command and its client, as they are written but for the port."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import indented, python_blocks
from tests.vllm.client import served

pytestmark = pytest.mark.vllm


@pytest.mark.slow
def test_the_readmes_server_answers_the_readmes_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any("\nsparsesight serve bundled " in block for block in indented("README.md"))
    (block,) = (b for b in python_blocks("README.md") if "needs a server" in b.note)
    assert "http://127.0.0.1:8000" in block.code
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING")  # as a user's server has it
    log = tmp_path / "log"
    with served(log) as address:
        exec(block.code.replace("http://127.0.0.1:8000", address), {})
    assert capsys.readouterr().out.strip() == "H"
    assert "is answered without pruning" not in log.read_text()
