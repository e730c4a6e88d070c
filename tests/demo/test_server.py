"""The page as it is served: where it listens, what it takes and gives away, and what is left of it."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from sparsesight.demo import runs, server, uploads
from sparsesight.demo.asked import Asked
from sparsesight.demo.engine import Engine
from sparsesight.errors import SparseSightError
from sparsesight.hf.loading import load_model
from tests.commands.command_line import PICTURE, QUESTION
from tests.demo.client import config, get, join, listen, upload

gradio = pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(load_model(), max_new_tokens=4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(engine: Engine) -> Iterator[tuple[str, Path]]:
    """The page's address, and the folder for what is uploaded."""
    from sparsesight.demo.server import serving
    from sparsesight.demo.tabs import Choices

    before = os.environ.get("GRADIO_TEMP_DIR")
    with serving(engine, Choices("sparsevlm+", 64, 576, 0.1)) as url:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        yield url, folder
        assert any(folder.iterdir())
    assert not folder.exists()  # whatever was uploaded is gone
    assert os.environ.get("GRADIO_TEMP_DIR") == before
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port))  # nobody listens any more


def test_it_listens_on_this_machine_only(served: tuple[str, Path]) -> None:
    url, _ = served
    assert url.startswith("http://127.0.0.1:")
    port = int(url.rstrip("/").rpartition(":")[2])
    other = socket.gethostbyname(socket.gethostname())
    if not other.startswith("127."):
        with socket.socket() as probe:
            probe.settimeout(5)
            assert probe.connect_ex((other, port))


def test_nothing_is_told_to_others(served: tuple[str, Path]) -> None:
    found = config(served[0])
    assert found["analytics_enabled"] is False
    assert not found.get("is_space") and not found.get("share_url")
    assert all(not sheet.startswith("http") for sheet in found["stylesheets"])
    css = get(f"{served[0]}theme.css")[1].decode()
    assert "@font-face" in css and not re.search(r"(url\(|@import)\s*['\"]?https?:", css)
    assert get(f"{served[0]}monitoring")[0] == 403


@pytest.mark.parametrize("answers", [True, False])
def test_a_proxy_or_a_busy_machine(engine: Engine, answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio asks the page once, through the proxy of the environment, and raises if no answer comes in time."""
    from sparsesight.demo.server import serving
    from sparsesight.demo.tabs import Choices

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    if answers:
        with serving(engine, Choices("sparsevlm+", 64, 576, 0.1)) as url:
            assert url.startswith("http://127.0.0.1:")
    else:
        monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
        with (
            pytest.raises(
                SparseSightError, match=r"the demo at 127\.0\.0\.1:\d+ does not answer this machine"
            ),
            serving(engine, Choices("sparsevlm+", 64, 576, 0.1)),
        ):
            pass
    assert "no_proxy" not in os.environ and os.environ["NO_PROXY"] == "example.org"


def test_questions_wait_in_one_queue(served: tuple[str, Path]) -> None:
    """One at a time over all tabs; nothing else waits behind them."""
    from sparsesight.demo.wiring import MODEL

    model = [d for d in config(served[0])["dependencies"] if d["types"]["generator"]]
    assert len(model) == 3 and all(d["queue"] is not False for d in model)
    assert MODEL == "model"


def test_an_upload_is_bounded_in_bytes(served: tuple[str, Path]) -> None:
    url, folder = served
    code, said = upload(url, b"x" * (uploads.MAX_BYTES + 1))
    assert code == 413 and b"maximum allowed size" in said
    large = uploads.MAX_BYTES // 2
    assert not [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > large]
    code, said = upload(url, PICTURE.read_bytes())
    assert code == 200
    (path,) = json.loads(said)
    assert folder in Path(path).parents


def test_uploads_together_are_bounded(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; what is longer than any picture, or does not say how long it is, never begins."""
    url, _ = served
    monkeypatch.setattr(uploads, "MAX_FILES", 3)
    paths = []
    for i in range(5):
        (path,) = json.loads(upload(url, PICTURE.read_bytes() + bytes([i]))[1])
        paths.append(Path(path))
    assert [path.exists() for path in paths] == [False, False, True, True, True]
    monkeypatch.setattr(uploads, "MAX_STORED", uploads.MAX_BYTES + 2 * len(PICTURE.read_bytes()) + 9)
    (path,) = json.loads(upload(url, PICTURE.read_bytes() + b"last")[1])
    assert [path.exists() for path in paths] == [False, False, False, True, True] and Path(path).exists()
    assert get(f"{url}gradio_api/upload", b"x", Content_length=str(2 * uploads.MAX_BYTES + 1))[0] == 413
    assert get(f"{url}gradio_api/upload", b"0\r\n\r\n", Transfer_Encoding="chunked")[0] == 411


def test_slow_uploads_do_not_keep_out_others(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    monkeypatch.setattr(server, "UPLOAD_SECONDS", 0.5)
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    port = int(url.rstrip("/").rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(server.MAX_UPLOADING)]
    try:
        for each in slow:
            each.sendall(head.encode())
        assert all(each.recv(99).startswith(b"HTTP/1.1 408") for each in slow)
    finally:
        for each in slow:
            each.close()
    monkeypatch.undo()
    assert upload(url, PICTURE.read_bytes())[0] == 200


def test_a_foreign_name_of_this_machine_gets_nothing(served: tuple[str, Path]) -> None:
    """A page elsewhere whose name is made to lead here could read what this server says."""
    url, _ = served
    assert get(f"{url}config", Host="evil.example")[0] == 400
    port = int(url.rstrip("/").rpartition(":")[2])
    assert get(f"{url}config", Host=f"localhost:{port}")[0] == 200


def test_only_what_was_uploaded_is_given_away_or_read(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE.read_bytes())
    assert get(f"{url}gradio_api/file={secret}")[0] in (403, 404)
    assert get(f"{url}gradio_api/file=/etc/hostname")[0] in (403, 404)
    check = next(d for d in config(url)["dependencies"] if d["api_name"] == "check")
    picture = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    said = join(url, check["id"], [picture, QUESTION, "sparsevlm+", 64, None])
    assert '"success":false' in said and "Waiting" not in said
    (path,) = json.loads(upload(url, PICTURE.read_bytes())[1])
    assert "Waiting for a turn" in join(
        url, check["id"], [{**picture, "path": path}, QUESTION, "sparsevlm+", 64, None]
    )
    said = join(url, check["id"], [{**picture, "path": path}, QUESTION, "florb", 64, None])
    assert "Method='florb' is unknown" in html.unescape(said)  # choices are not trusted either


def test_a_port_that_is_taken(engine: Engine) -> None:
    from sparsesight.demo.server import serving
    from sparsesight.demo.tabs import Choices

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with (
            pytest.raises(SparseSightError, match=f"--port {port}: .*already in use"),
            serving(engine, Choices("sparsevlm+", 64, 576, 0.1), port=port),
        ):
            pytest.fail("it listens where another does")
    with (
        pytest.raises(SparseSightError, match="--host 'no such host'"),
        serving(engine, Choices("sparsevlm+", 64, 576, 0.1), host="no such host"),
    ):
        pytest.fail("it listens nowhere")


def test_a_port_that_is_taken_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two demos that start together see the same port free."""
    from sparsesight.demo.tabs import Choices

    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], server._free_port
        monkeypatch.setattr(server, "_free_port", lambda *a: taken if not any(a[2:]) else free(*a))
        with server.serving(engine, Choices("sparsevlm+", 64, 576, 0.1)) as url:
            assert f":{taken}" not in url and get(url)[0] == 200


def test_a_page_that_is_gone_ends_its_run(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = served
    begun, ended = Event(), Event()

    def endless(engine: Engine, asked: Asked, stop: Event) -> Iterator[runs.AskView]:
        try:
            for number in range(1_000):
                yield runs.AskView("", "", str(number))
                begun.set()
                time.sleep(0.05)
        finally:
            ended.set()

    monkeypatch.setattr(runs, "ask", endless)
    (path,) = json.loads(upload(url, PICTURE.read_bytes())[1])
    events = {d["api_name"]: d["id"] for d in config(url)["dependencies"]}
    join(url, events["check"], [{"path": path}, QUESTION, "sparsevlm+", 64, None], "gone")
    with listen(url, events["run"], [None], "gone"):
        assert begun.wait(60) and not ended.is_set()
    assert ended.wait(60)
