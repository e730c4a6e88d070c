"""Contestants in processes of their own, with a stand-in for somebody else's code. No test looks at speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peering.worker import fingerprint
from tests.benchmarks.conftest import script
from tests.hf import tiny

# Somebody else's code: ours, with a fault for each thing that the driver has to notice.
TOY = """
import os

import torch
from peering import ours

PATHS = ("code",)
CHANGES = ("nothing",)


class Peer(ours.Peer):
    def __init__(self, job):
        import toyvlm  # in the checkout

        print(toyvlm.GREETING)
        super().__init__(job)
        if os.environ["TOY"] == "other weights":
            with torch.no_grad():
                weight = self.decoder.get_decoder().layers[2].mlp.up_proj.weight
                weight[0, 0] += 1  # a private copy of the file's page

    def prefill(self, prompt):
        if os.environ["TOY"] == "exit":
            os._exit(3)
        return super().prefill(prompt)

    def look(self, prompt):
        found = super().look(prompt)
        if self.run is not None and os.environ["TOY"] == "fail":
            raise RuntimeError("out of toys")
        if self.run is not None:
            found["kept"][0][-1:] = []
        return found
"""
SHAPE = "layers=4,hidden=64,ffn=96,heads=4,text=45"


@pytest.fixture(scope="module")
def peers() -> Any:
    return script("peers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("peers")
    (folder / "checkout" / "code").mkdir(parents=True)
    (folder / "checkout" / "code" / "toyvlm.py").write_text("GREETING = 'hello from the checkout'\n")
    (folder / "toy.py").write_text(TOY)
    return folder


@pytest.fixture
def known(peers: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the toy a known peer, with or without a fault."""
    parts = sys.modules["peering.contestants"]

    def make(fault: str) -> None:
        method = "random(retain=(8,),layers=(1,))"
        toy = parts.Known(
            "a toy",
            str(place / "toy"),
            lambda tiles: [parts.Setting("8", {"method": method}, method)],
            (("TOY", fault), ("PYTHONPATH", ":".join(sys.path))),
        )
        monkeypatch.setitem(parts.KNOWN, "toy", toy)

    return make


def run(peers: Any, place: Path, *more: str) -> dict[str, Any]:
    """The file that a run writes."""
    out = place / "new" / "out"
    toy = ("--peer", "toy", str(place / "checkout"), sys.executable)
    peers.main([*toy, "--out", str(out), "--repeats", "2", "--shape", SHAPE, *more])
    written: dict[str, Any] = json.loads((out / "results.json").read_text())
    return written


@pytest.mark.slow
def test_all_are_asked_the_same(
    peers: Any, place: Path, known: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    known("none")
    found = run(peers, place)
    assert found["prompt"] == {"visual": 576, "text": 45} and found["rounds"] == 2
    rows = {(row["contestant"], row["setting"]): row for row in found["rows"]}
    assert list(rows) == [
        ("sparsesight", "dense"),
        ("toy", "dense"),
        ("sparsesight", "as toy, 8"),
        ("toy", "8"),
    ]
    assert len({rows[x, "dense"]["token"] for x in ("sparsesight", "toy")}) == 1  # one model, one prompt
    sparse = rows["toy", "8"]
    assert sparse["visual_per_layer"] == [576, 576, 8, 8]
    assert sparse["cache_bytes"] == 2 * 4 * 64 * (2 * (576 + 45) + 2 * (8 + 45))
    assert 0 < sparse["peak_bytes"] < rows["toy", "dense"]["peak_bytes"]
    for row in found["rows"]:
        assert 0 < row["cpu_s"]["min"] <= row["cpu_s"]["median"] <= row["cpu_s"]["max"]
    assert rows["toy", "dense"]["speedup"] == {"min": 1, "median": 1, "max": 1}
    (stage,) = found["agreement"][0]["stages"]
    assert (stage["theirs"], stage["ours"], stage["both"]) == (7, 8, 7) and len(stage["only_ours"]) == 1
    assert found["contestants"]["toy"]["changes"] == ["nothing"]
    assert found["contestants"]["toy"]["environment"]["threads"] == 1
    said = capfd.readouterr()
    assert (
        "hello" in said.err and "hello" not in said.out
    )  # what the code of others prints is not in the table
    assert said.out.strip() == (place / "new" / "out" / "table.md").read_text().strip()
    assert said.out.strip().splitlines()[-1].endswith("| 7 of 7 |")


@pytest.mark.slow
def test_a_setting_that_fails_is_a_row(peers: Any, place: Path, known: Any) -> None:
    known("fail")
    found = run(peers, place, "--repeats", "1")
    assert found["rows"][-1]["failed"] == "RuntimeError: out of toys" and not found["agreement"]
    assert "does not run: RuntimeError: out of toys" in (place / "new" / "out" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("other weights", r"toy does not have the weights of sparsesight: 1 of 28 .*layers\.2\.mlp\.up_proj"),
        ("exit", "toy: its process ended with status 3"),
    ],
)
def test_a_peer_that_cannot_be_compared_ends_the_run(
    peers: Any, place: Path, known: Any, fault: str, said: str
) -> None:
    known(fault)
    with pytest.raises(SystemExit, match=said):
        run(peers, place)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "nobody", ".", "python"], "--peer nobody: the known ones are sparsevlm-v2.0, "),
        (["--peer", "fastv", "/nowhere", "python"], "--peer fastv: /nowhere is no folder"),
        (["--peer", "fastv", ".", "p", "--peer", "fastv", ".", "p"], "name each of them once"),
        (["--peer", "fastv", ".", "p", "--setting", "7"], "--setting: fastv has 288 from layer 2, 144 from "),
        (["--shape", "layers=many"], "'layers=many' is not NAME=NUMBER with a name out of layers, "),
        (["--tiles", "0"], "at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(peers: Any, arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        peers.main(arguments)


def test_an_interpreter_that_is_not_there(peers: Any) -> None:
    with pytest.raises(SystemExit, match="toy: its python '/nowhere/python' does not start"):
        sys.modules["peering.contestants"].Worker("toy", "/nowhere/python", {}, {})


def test_other_weights_have_other_fingerprints(peers: Any) -> None:
    built = tiny.model()
    dense = SimpleNamespace(name="dense", said={"weights": fingerprint(built)})
    same = SimpleNamespace(name="toy", said={"weights": fingerprint(tiny.model("llava", "eager"))})
    peers.check_weights(dense, same)
    with torch.no_grad():
        built.get_decoder().layers[2].mlp.up_proj.weight[0, 0] += 1
    other = SimpleNamespace(name="toy", said={"weights": fingerprint(built)})
    with pytest.raises(SystemExit, match=r"toy does not .* of dense: 1 of 49 .*layers\.2\.mlp\.up_proj"):
        peers.check_weights(dense, other)


def test_the_same_seed_gives_the_same_files(peers: Any, tmp_path: Path) -> None:
    sizes = peers.parse_shape(SHAPE)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert peers.checkpoint_in(tmp_path / name, sizes, 2, seed) == {"visual": 1152, "text": 45}
    a, b, c = ((tmp_path / name / "decoder.pt").read_bytes() for name in "abc")
    assert a == b != c
    a, b = ((tmp_path / name / "clip" / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    with pytest.raises(SystemExit, match=r"/a holds .*\"seed\": 0.*name another folder"):
        peers.checkpoint_in(tmp_path / "a", sizes, 2, 1)
    prompt = torch.load(tmp_path / "a" / "prompt.pt")
    assert prompt["visual"] == 2 * 576 and len(prompt["before"]) == 35 and len(prompt["after"]) == 10


def test_every_setting_of_every_peer_has_a_method_of_ours() -> None:
    from sparsesight.methods import parse

    for name, peer in sys.modules["peering.contestants"].KNOWN.items():
        for tiles in (1, 5):
            settings = list(peer.settings(tiles))
            assert settings and len({x.name for x in settings}) == len(settings), name
            for setting in settings:
                assert parse(setting.ours).positions in ("original", "compact")


def test_how_far_apart_the_last_kept_and_the_first_dropped_token_are(peers: Any) -> None:
    margin = __import__("peering.ours", fromlist=["margin"]).margin
    score = np.array([0.5, np.nan, 0.4, 0.1], np.float32)
    assert margin(score, 2) == pytest.approx(0.75)
    assert margin(score, 3) is None  # nothing dropped
    assert margin(np.array([-0.0, -1.0, -2.0]), 2) is None  # places of a greedy choice


class FakeDecoder(nn.Module):
    """Asks for a choice twice, as SparseVLM's does, and returns keys and values last in a tuple."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.code = code

    def forward(self) -> Any:
        for _ in range(2):
            self.code.attn_postprocess_topk()
        return None, {"past_key_values": [(torch.zeros(1), torch.zeros(1))]}


def test_kept_tokens_are_counted_among_those_of_the_prompt(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SparseVLM's second choice is among kept tokens, in order, and the merged ones after them."""
    adapter = __import__("peering.sparsevlms", fromlist=["Peer"])
    masks = iter(
        (
            torch.tensor([[False, True, True, False, True, False]]),
            torch.tensor([[True, False, True, True]]),  # tokens 1 and 4, and the merged one
        )
    )
    code = SimpleNamespace(attn_postprocess_topk=lambda: (next(masks), True, None))
    peer = object.__new__(adapter.Peer)
    peer.code, peer.merges = code, True
    peer.model = SimpleNamespace(model=FakeDecoder(code))
    monkeypatch.setattr(adapter.Peer, "prefill", lambda self, prompt: self.model.model() and 7)
    seen = peer.look({"visual": 6})
    assert seen["kept"] == [[1, 2, 4], [1, 4]] and seen["token"] == 7 and len(seen["cache"]) == 1


def test_what_an_adapter_replaces_comes_back(peers: Any) -> None:
    forks = sys.modules["peering.forks"]
    owner = SimpleNamespace(a=1)
    with pytest.raises(RuntimeError), forks.replaced(owner, a=2):
        assert owner.a == 2
        raise RuntimeError
    assert owner.a == 1
