"""Contestants in processes of their own, with a stand-in for somebody else's checkout. No test looks at speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.peering.worker import fingerprint
from tests.benchmarks.conftest import script
from tests.hf import tiny

# A code base as others have it: a package in a checkout, an adapter that knows how it is called. It prints, as they do.
PACKAGE = """
import os, torch
from transformers import LlavaForConditionalGeneration
print("loading ...")

def build(path, shift):
    model = LlavaForConditionalGeneration.from_pretrained(path).eval()
    with torch.no_grad():
        model.get_decoder().layers[2].mlp.up_proj.weight[0, 0] += shift
    return model

def answer(model, before, after, visual, pixels, count):
    print("answering", os.environ.get("TOY"))
    ids = torch.cat((before, torch.full((visual,), 4), after))[None]
    for _ in range(count):
        logits = model(input_ids=ids, pixel_values=pixels).logits
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
    return ids[0, -count:].tolist()
"""
ADAPTER = """
def load(job):
    import os, torch
    assert os.environ["TOY"] == "seven" and job["options"]["flag"]
    if job["options"].get("exit"):
        os._exit(3)
    if job["options"].get("fail"):
        def fail(*_):
            raise RuntimeError("out of toys")
        layer = torch.nn.ModuleDict({"mlp": torch.nn.Linear(1, 1)})
        return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])}), fail
    import toyvlm
    model = toyvlm.build(job["model"], job["options"].get("shift", 0))
    def answer(p, count):
        return toyvlm.answer(model, p["before"], p["after"], p["visual"], p["pixels"], count)
    return model, answer
"""


@pytest.fixture(scope="module")
def peers() -> Any:
    return script("peers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("peers")
    (folder / "checkout" / "toyvlm").mkdir(parents=True)
    (folder / "checkout" / "toyvlm" / "__init__.py").write_text(PACKAGE)
    (folder / "adapter.py").write_text(ADAPTER)
    model = tiny.model()
    model.generation_config.suppress_tokens = None
    model.save_pretrained(folder / "model")
    tiny.processor().save_pretrained(folder / "model")
    return folder


DENSE = {"name": "dense", "adapter": "ours"}
OURS = {"name": "ours", "adapter": "ours", "options": {"method": "random(retain=8, layers=(0,))"}}


def run(peers: Any, place: Path, contestants: list[dict[str, Any]], *more: str) -> dict[str, Any]:
    """The file that a run writes."""
    (place / "list.json").write_text(json.dumps(contestants))
    out = place / "new" / "out.json"
    arguments = [
        "--model",
        str(place / "model"),
        "--contestants",
        str(place / "list.json"),
        "--out",
        str(out),
    ]
    peers.main([*arguments, "--repeats", "2", "--steps", "2", "--threads", "1", *more])
    written: dict[str, Any] = json.loads(out.read_text())
    return written


def toy_of(place: Path, **changes: Any) -> dict[str, Any]:
    toy = {"name": "toy", "adapter": str(place / "adapter.py"), "checkout": str(place / "checkout")}
    return {**toy, "environment": {"TOY": "seven"}, "options": {"flag": True}, **changes}


@pytest.mark.slow
def test_all_are_asked_the_same(peers: Any, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = run(peers, place, [DENSE, OURS, toy_of(place, python=sys.executable)])
    dense, ours, toy = found["rows"]
    assert (
        dense["tokens"] == toy["tokens"] and len(dense["tokens"]) == 3
    )  # the same model and prompt: the same answer
    assert ours["tokens"] != dense["tokens"]
    assert found["prompt"]["visual"] == 64 and found["prompt"]["text"] > 5
    for row, result in zip(found["rows"], found["results"], strict=True):
        assert len(result["turns"]) == 2 and result["environment"]["torch"] == torch.__version__
        assert result["environment"]["threads"] == 1
        for key in ("first_token_ms", "first_token_cpu_ms"):
            assert 0 < row[key]["min"] <= row[key]["median"] <= row[key]["max"] and row[key]["speedup"] > 0
    assert dense["first_token_ms"]["speedup"] == 1
    said = capfd.readouterr()
    lines = said.out.strip().splitlines()
    assert len(lines) == 5 and lines[2].startswith(
        "| dense |"
    )  # what the code of others prints is not in the table
    assert "answering seven" in said.err


def test_other_weights_have_other_fingerprints(peers: Any) -> None:
    built = tiny.model()
    dense = SimpleNamespace(name="dense", said={"weights": fingerprint(built, "float32")})
    same = SimpleNamespace(name="toy", said={"weights": fingerprint(tiny.model("llava", "eager"), "float32")})
    peers.check_weights(dense, same)
    with torch.no_grad():
        built.get_decoder().layers[2].mlp.up_proj.weight[0, 0] += 1
    other = SimpleNamespace(name="toy", said={"weights": fingerprint(built, "float32")})
    said = r"toy does not have the weights of dense: 1 of 49 .*layers\.2\.mlp\.up_proj"
    with pytest.raises(SystemExit, match=said):
        peers.check_weights(dense, other)


@pytest.mark.slow
def test_other_weights_are_refused(peers: Any, place: Path) -> None:
    other = toy_of(place, options={"flag": True, "shift": 1})
    said = r"toy does not have the weights of dense: 1 of 49 .*layers\.2\.mlp\.up_proj"
    with pytest.raises(SystemExit, match=said):
        run(peers, place, [DENSE, other])


@pytest.mark.parametrize(
    ("toy", "said"),
    [
        ({"options": {"flag": True, "fail": True}}, "toy: RuntimeError: out of toys"),
        ({"options": {"flag": True, "exit": True}}, "toy: its process ended with status 3"),
        pytest.param(
            {"environment": {}}, "toy: KeyError: 'TOY'", marks=pytest.mark.slow
        ),  # as "fail", at another time
        ({"checkout": "/nowhere"}, "toy: ModuleNotFoundError: No module named 'toyvlm'"),
        ({"python": "/nowhere/python"}, "toy: its python '/nowhere/python' does not start"),
        ({"adapter": "unheard-of"}, "toy: there is no adapter 'unheard-of'"),
        ({"colour": "red"}, r"\['colour'\] are unknown"),
    ],
)
def test_what_is_wrong_is_one_sentence(peers: Any, place: Path, toy: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        run(peers, place, [toy_of(place, **toy), DENSE], "--apart")


def test_the_usual_contestants(peers: Any, tmp_path: Path) -> None:
    dense, ours, plain, theirs = peers.usual(tmp_path, "/env/python", "their/weights", 128, "2_0")
    assert "options" not in dense and ours["options"] == {"method": "sparsevlm+(retain=128)"}
    assert theirs["environment"] == {"RETAIN_TOKN": "128", "USE_VERSION": "2_0"}
    assert plain["options"] == {"dense": True} and plain["checkout"] == str(tmp_path)
    with pytest.raises(SystemExit, match="--checkout needs --checkout-model"):
        peers.main(["--model", "x", "--checkout", str(tmp_path)])
    with pytest.raises(SystemExit, match="one of them"):
        peers.main(["--model", "x"])


@pytest.mark.slow
def test_the_adapter_for_checkouts_of_llava(peers: Any, place: Path, tmp_path: Path) -> None:
    """Called as LLaVA's code base is: the picture is one id, and prompts are given without names."""
    package = tmp_path / "checkout" / "llava" / "model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "__init__.py").write_text("")
    (package / "builder.py").write_text(
        """
import torch
from transformers import LlavaForConditionalGeneration

def load_pretrained_model(path, base, name, device, dynamic_sparse=True):
    assert base is None and "llava" in name and not dynamic_sparse
    model = LlavaForConditionalGeneration.from_pretrained(path)
    plain = model.generate

    def generate(inputs, images, image_sizes, **how):
        assert (inputs == -200).sum() == 1 and image_sizes == [(48, 48)] and how.pop("extra") == 5
        at = int((inputs[0] == -200).nonzero())
        ids = torch.cat((inputs[0, :at], torch.full((64,), 4), inputs[0, at + 1:]))[None]
        out = plain(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=images, **how)
        return out[:, ids.shape[1]:], 576

    model.generate = generate
    return None, model, None, 2048
"""
    )
    options = {"dense": True, "generate": {"extra": 5}}
    fork = {"name": "fork", "adapter": "llava", "checkout": str(tmp_path / "checkout"), "options": options}
    found = run(peers, place, [DENSE, fork], "--apart")
    assert found["rows"][0]["tokens"] == found["rows"][1]["tokens"]
    assert found["rows"][1]["first_token_ms"]["speedup"] > 0
