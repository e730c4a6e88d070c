"""Requests that no browser sends: whatever an event of the page is given, the server tells nothing of the machine,
does nothing for long, and serves the next one."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from sparsesight import bundled
from sparsesight.demo import runs
from sparsesight.demo.engine import Engine
from sparsesight.demo.uploads import NOT_HERE
from sparsesight.hf.loading import load_model
from tests.commands.command_line import PICTURE, QUESTION
from tests.demo.client import get, join, upload
from tests.security.demo_server import MARKED, Server

pytest.importorskip("gradio", reason="needs Gradio: pip install 'sparsesight[demo]'")
REFUSED = f"{NOT_HERE[0].upper()}{NOT_HERE[1:]}."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from sparsesight.demo.server import serving
    from sparsesight.demo.tabs import Choices

    folder = tmp_path_factory.mktemp("elsewhere")
    secret = folder / "secret.png"
    secret.write_bytes(PICTURE.read_bytes())
    secret.chmod(0o600)
    with ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        engine = Engine(load_model(), max_new_tokens=2)
        stack.callback(engine.close)
        yield Server(stack.enter_context(serving(engine, Choices("sparsevlm+", 64, 576, 0.1))), secret)


CHECKS = ("check", "check_1", "check_2")


def files(server: Server) -> list[Any]:
    """Pictures that are none of the demo's, said in every way."""
    secret, own = str(server.secret), server.own
    plain: list[Any] = [
        secret,
        "secret.png",
        "/etc/passwd",
        "/etc/no-such-file",
        "/dev/zero",
        "/proc/self/mem",
        str(bundled.default_picture()),
        f"{Path(own).parent}/../../../../../../..{secret}",
        f"{own}/../../..{secret}",
        f"file://{secret}",
        "http://127.0.0.1:1/a.png",
        "https://[::1]/a.png",
        "//example.com/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        f"{own}\0",
        "\0",
        "",
        "x" * 9_000,
        f"{server.url}gradio_api/file={secret}",
    ]
    made: list[Any] = [{"path": path, **mark} for path in plain for mark in ({}, MARKED)]
    made += [
        {"path": "", "url": f"file://{secret}", **MARKED},
        {"url": secret},
        {"url": "http://127.0.0.1:1/a.png", **MARKED},
        {"path": None, "url": secret},
        {"path": secret, "meta": {"_type": "gradio.FileData"}, "is_stream": True},
        {"path": secret, "meta": {"_type": "other"}},
        {"path": [secret]},
        {"path": {"path": secret}},
        {"path": 5},
        {"value": {"path": secret}},
        [{"path": secret, **MARKED}],
        [[{"path": secret}]],
    ]
    return made


def test_no_event_reads_another_file(server: Server) -> None:
    """What exists, what may not be read and what is nowhere are told in the same words by every event."""
    events = cycle(name for name, event in server.events.items() if len(event["inputs"]) >= 3)
    for upload_ in files(server):
        event = next(events)
        assert REFUSED in server.told(event, upload_), (event, upload_)
    for event in [name for name, found in server.events.items() if found["inputs"]]:
        assert REFUSED in server.told(event, {"path": str(server.secret)}), event
        assert REFUSED in server.told(event, {"path": str(server.secret), **MARKED}), event


def test_a_file_in_the_place_of_another_value(server: Server) -> None:
    for place in range(1, 4):
        values: list[Any] = [{"path": server.own, **MARKED}, QUESTION, "sparsevlm+", 64][:place]
        for event in CHECKS:
            told = server.told(event, *values, {"path": "http://127.0.0.1:1/a.png", **MARKED})
            assert REFUSED in told, event


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (1, "x" * 1_000_000),
        (1, "x" * 1_001),
        (1, "\N{GRINNING FACE}" * 5_000),
        (1, None),
        (1, ["x"] * 50),
        (1, 7),
        (1, {"text": "x"}),
        (2, "x" * 1_000_000),
        (2, "x" * 10_000),
        (2, None),
        (2, {}),
        (2, 1.5),
        (2, ["random"] * 1_000),
        (2, [["random"]]),
        (3, "64"),
        (3, -1),
        (3, 1e308),
        (3, 10**30),
        (3, True),
        (3, [10**9]),
        (3, [64] * 1_000),
        (3, ["64"]),
        (0, 5),
        (0, "x"),
        (0, []),
    ],
)
def test_limits_hold_at_the_only_way_to_a_run(server: Server, place: int, value: Any) -> None:
    start = time.monotonic()
    for event in ("check", "check_1"):
        values: list[Any] = [{"path": server.own, **MARKED}, QUESTION, "sparsevlm+", 64]
        if event == "check_1":
            values[2:] = [["random"], [64]]
        told = server.told(event, *values[:place], value)
        assert "'error': '" in told and "log says" not in told and len(told) < 600, told
    assert time.monotonic() - start < 10


def test_deep_and_endless_values(server: Server) -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    for value in (deep, {str(i): i for i in range(1_000)}, [0] * 1_000_000):
        for event in ("check", "run", "choose", "show"):
            assert "'error': '" in server.told(event, value)
    number = server.events["check"]["id"]
    for data in ([], [None] * 100):
        told = join(server.url, number, data)
        assert '"success":false' in told and "Traceback" not in told
    body = b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b', "fn_index": 0, "session_hash": "a"}'
    assert get(f"{server.url}gradio_api/queue/join", body, Content_Type="application/json")[0] in range(
        400, 501
    )


def test_a_request_is_bounded_before_it_is_read(server: Server) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    for header, code in (("Content-Length: 10000000000", b"413"), ("Transfer-Encoding: chunked", b"411")):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
            assert code in client.recv(100)


@pytest.mark.parametrize(
    "path",
    [
        "file=http://127.0.0.1:1/a.png",
        "file=https://example.com/a.png",
        "process_recording",
        "component_server",
        "component_server/",
        "proxy=http://127.0.0.1:1/",
        "vibe-edit/",
    ],
)
def test_what_the_page_has_no_use_for_is_closed(server: Server, path: str) -> None:
    for body in (None, b"{}"):
        assert get(f"{server.url}gradio_api/{path}", body)[0] == 404


def test_files_are_given_away_from_the_folder_only(server: Server) -> None:
    url = f"{server.url}gradio_api/file="
    assert get(url + server.own) == (200, PICTURE.read_bytes())
    for path in (
        server.secret,
        "/etc/passwd",
        f"{Path(server.own).parent}/../../../../..{server.secret}",
        f"{Path(server.own).parent}/%2e%2e/%2e%2e/%2e%2e{server.secret}",
        "secret.png",
        f"%2f{server.secret}",
    ):
        assert get(f"{url}{path}")[0] in (403, 404), path


def test_an_upload_is_no_page(server: Server) -> None:
    """Scripts of an uploaded file would run as the demo's own."""
    for name in ("a.html", "a.svg", "a.xml", "a.xhtml", "a.js", "a.pdf", "a"):
        (path,) = json.loads(upload(server.url, b"<svg><script>alert(1)</script></svg>", name)[1])
        with urllib.request.urlopen(f"{server.url}gradio_api/file={path}") as answer:
            assert answer.headers["Content-Type"] == "application/octet-stream", name
            assert answer.headers["Content-Disposition"].startswith("attachment"), name


def test_functions_have_no_address(server: Server) -> None:
    """Nothing can be called past the queue."""
    for name in server.events:
        body = json.dumps({"data": [{"path": str(server.secret)}], "session_hash": "a"}).encode()
        for route in ("run", "api", "call", "call/v2"):
            code, said = get(f"{server.url}gradio_api/{route}/{name}", body, Content_Type="application/json")
            assert code >= 400 or "event_id" in said.decode(), (route, name)
            assert str(server.secret) not in said.decode()


def test_examples_are_shown_wherever_the_server_was_started(server: Server) -> None:
    assert Path.cwd() == server.secret.parent
    for number in range(len(bundled.pictures())):
        told = server.told("choose", number)
        (path,) = re.findall(r"'path': '([^']*)'", told)
        assert get(f"{server.url}gradio_api/file={path}")[0] == 200
        assert "Waiting for a turn" in server.told("check", {"path": path, **MARKED})


def test_names_of_uploads_stay_in_the_folder(server: Server) -> None:
    folder = Path(server.own).parent.parent
    for name in (
        "../../secret.png",
        "/etc/a.png",
        "a\\0.png",
        "..",
        "a/../../b.png",
        "x" * 300 + ".png",
        "<b>.png",
    ):
        code, said = upload(server.url, PICTURE.read_bytes(), name)
        if code == 200:
            (path,) = json.loads(said)
            assert folder in Path(path).resolve().parents, name
            assert "Waiting for a turn" in server.told("check", {"path": path, **MARKED}), name
    assert not (folder.parent / "secret.png").exists()


def test_a_run_takes_nothing_from_a_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does stands in the page's state, where only a check can put it."""
    for name in ("ask", "compare", "watch"):
        monkeypatch.setattr(runs, name, lambda *_: pytest.fail("it ran"))
    for event in ("run", "run_1", "run_2"):
        assert [block["type"] for block in server.inputs(event)] == ["state"]
        for value in (None, 1, {"run": "ask", "begun": False}, [QUESTION], "x"):
            assert "Stopped" in server.told(event, value)


def test_it_still_answers(server: Server) -> None:
    """After all of the above."""
    asked = [{"path": server.own, **MARKED}, QUESTION, "sparsevlm+", 64, None]
    join(server.url, server.events["check"]["id"], asked, "honest")
    told = join(server.url, server.events["run"]["id"], [None], "honest")
    assert "less prefill arithmetic" in told and '"success":true' in told.rpartition("process_completed")[2]
