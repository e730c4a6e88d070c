"""Model folders that somebody else made: one sentence each, nothing outside of the folder read, no code run."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsesight import SparseSightError
from sparsesight.hf import checkpoint
from sparsesight.hf.loading import load_model
from sparsesight.hf.vision.text_tower import TextTower


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None
    )


def index(*names: Any) -> Callable[[Path], None]:
    """Shards by an index in place of one file."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "bomb.bin").write_bytes(pickle.dumps(Bomb()))
        (folder.parent / "out.safetensors").write_bytes(b"x")
        weights = {f"w{i}": name for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weights})
        )

    return change


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**data, **values}))

    return change


def inside(part: str, **values: Any) -> Callable[[Path], None]:
    """A part of the config changed."""

    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        data[part] |= values
        (folder / "config.json").write_text(json.dumps(data))

    return change


def linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return change


def directory(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


DEEP = "[" * 100_000 + "]" * 100_000
ELSEWHERE = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "/somewhere"}
HEADER = struct.pack("<Q", 2**63) + b"{}"

FOLDERS: dict[str, Callable[[Path], None]] = {
    "index of a pickle": index("a.safetensors", "bomb.bin"),
    "index up": index("../out.safetensors"),
    "index absolute": index("/etc/passwd"),
    "index absolute weights": index("/tmp/a.safetensors"),
    "index into a folder": index("sub/a.safetensors"),
    "index with backslash": index("..\\out.safetensors"),
    "index with a null byte": index("a\0.safetensors"),
    "index with a line break": index("a.safetensors\n"),
    "index hidden": index(".safetensors"),
    "index of a number": index(3),
    "index of a list": index(["a.safetensors"]),
    "index of nothing": index(),
    "index of what is missing": index("b.safetensors"),
    "index of another type": write("model.safetensors.index.json", "[]"),
    "index without a map": write("model.safetensors.index.json", '{"weight_map": 3}'),
    "index deep": write("model.safetensors.index.json", DEEP),
    "index beside the weights": write("model.safetensors.index.json", '{"weight_map": {"a": "b.bin"}}'),
    "variant index": write("model.fp16.safetensors.index.json", '{"weight_map": {"a": "b.bin"}}'),
    "weights named by the config": changed("config.json", transformers_weights="adapter_model.bin"),
    "weights named outside": changed("config.json", transformers_weights="../out.safetensors"),
    "weights named by a number": changed("config.json", transformers_weights=3),
    "adapter": write("adapter_config.json", '{"base_model_name_or_path": "/somewhere"}'),
    "weights linked": linked("model.safetensors"),
    "config linked": linked("config.json"),
    "tokenizer linked": linked("tokenizer.json"),
    "template linked": linked("chat_template.jinja"),
    "weights a pipe": pipe("model.safetensors"),
    "tokenizer a pipe": pipe("tokenizer.json"),
    "header too long": write("model.safetensors", HEADER),
    "header cut": write("model.safetensors", b"\x10\0\0"),
    "header deep": write("model.safetensors", struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "header of another type": write("model.safetensors", struct.pack("<Q", 2) + b"[]"),
    "pickle by another name": write("model.safetensors", pickle.dumps(Bomb())),
    "weights empty": write("model.safetensors", b""),
    "config a list": write("config.json", "[]"),
    "config no text": write("config.json", b"\xff\xfe\0"),
    "config deep": write("config.json", DEEP),
    "config NaN": write("config.json", '{"model_type": NaN}'),
    "model type a list": changed("config.json", model_type=["llava"]),
    "text config a text": changed("config.json", text_config="x"),
    "vision config a number": changed("config.json", vision_config=3),
    "layers without end": inside("text_config", num_hidden_layers=10**9),
    "too many layers": inside("vision_config", num_hidden_layers=10**5),
    "infinite layers": inside("text_config", num_hidden_layers=1e300),
    "layers in lists": changed("config.json", more={"depths": [2, [10**9]]}),
    "a name for each label": inside("text_config", num_labels=10**9),
    "many layers of features": changed("config.json", vision_feature_layer=[0] * 1001),
    "width of nothing": inside("text_config", hidden_size=0),
    "dtype unknown": changed("config.json", dtype="float\x1b[31m7"),
    "dtype a list": changed("config.json", dtype=["float32"]),
    "processor a list": write("processor_config.json", "[]"),
    "processor deep": write("processor_config.json", DEEP),
    "tokenizer a list": write("tokenizer.json", "[]"),
    "tokenizer deep": write("tokenizer.json", DEEP),
    "tokenizer config a list": write("tokenizer_config.json", "[]"),
    "tokenizer config deep": write("tokenizer_config.json", DEEP),
    "generation config ids": changed("generation_config.json", eos_token_id="x"),
    "generation config flags": changed("generation_config.json", pad_token_id=True),
    "tokenizer that panics": changed(
        "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "audio tokenizer": changed("processor_config.json", audio_tokenizer=ELSEWHERE),
    "audio tokenizer in a file": write("audio_tokenizer_config.json", json.dumps(ELSEWHERE)),
    "tokens of a picture": changed("processor_config.json", num_additional_image_tokens=10**7),
    "length of a picture": changed("processor_config.json", image_seq_length=1e300),
    "attention from a repository": changed("config.json", attn_implementation="evil/kernel"),
    "built far beyond its weights": inside("text_config", intermediate_size=3 * 10**6),
    "a text config of nothing": changed("config.json", text_config={}),
    "places without end": inside("vision_config", image_size=10**9),
    "experts without end": inside("text_config", num_experts=10**9),
    "quantised by what is no config": changed("config.json", quantization_config=[1]),
    "tokenizer of a hundred gigabytes": lambda folder: os.truncate(folder / "tokenizer.json", 10**11),
    "its own code": changed("config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
}

WRONG = {
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "nothing": "",
    "deep": DEEP,
    "no text": b"\xff\xfe\0",
}


@pytest.mark.parametrize("name", (*checkpoint.OBJECTS, *checkpoint.PROCESSORS, "config.json"))
def test_a_file_that_is_no_json_object(folder: Path, name: str) -> None:
    """It is named; transformers would speak of attributes that an int does not have."""
    for kind, text in WRONG.items():
        write(name, text)(folder)
        with pytest.raises(SparseSightError, match=re.escape(name)) as caught:
            load_model(str(folder), "cpu")
        assert len(str(caught.value)) < 600, kind
    directory(name)(folder)
    with pytest.raises(SparseSightError, match=f"{re.escape(name)} is not a regular file"):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_refused(
    folder: Path, case: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    FOLDERS[case](folder)
    monkeypatch.chdir(folder.parent)
    (folder / "own.py").write_text("import os\nos.mkdir('ran')\n")
    # CPU's default of float32 would not ask for the checkpoint's own dtype.
    with pytest.raises(SparseSightError) as caught:
        load_model(str(folder), "cpu", "float32")
    said = str(caught.value)
    assert len(said) < 1000 and ("model" in said or "config" in said)
    assert not Path("ran").exists()
    assert not any("zero-element" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("audio tokenizer", "names an audio tokenizer"),
        ("audio tokenizer in a file", "names an audio tokenizer"),
        ("attention from a repository", "'evil/kernel', which is code from another repository"),
        ("layers without end", "'num_hidden_layers': 1000000000, more than the limit of 1,000"),
        ("too many layers", "more than the limit"),
        ("layers in lists", "'depths'"),
    ],
)
def test_what_leads_elsewhere_or_nowhere_is_refused_before_anything_follows_it(
    folder: Path, part: str, said: str
) -> None:
    """Not because a package is missing that would follow it."""
    FOLDERS[part](folder)
    with pytest.raises(SparseSightError, match=said):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize("case", ["index of a pickle", "weights linked", "adapter", "index up"])
def test_a_text_tower_is_checked_like_a_model(folder: Path, case: str) -> None:
    FOLDERS[case](folder)
    with pytest.raises(SparseSightError, match="text tower"):
        load_model(None, "cpu", text_tower=str(folder))


def test_a_text_tower_is_never_unpickled(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**sizes, "image_size": 4, "patch_size": 2}
    config = CLIPConfig(text_config={**sizes, "vocab_size": 9}, vision_config=vision, projection_dim=4)
    config.save_pretrained(tmp_path)
    torch.save(CLIPModel(config).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        TextTower.from_pretrained(str(tmp_path))


def test_a_text_tower_has_all_its_weights(tmp_path: Path) -> None:
    """What a checkpoint lacks would be drawn at random: any number of it, and in silence."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {**sizes, "image_size": 4, "patch_size": 2}
    config = CLIPConfig(text_config={**sizes, "vocab_size": 9}, vision_config=vision, projection_dim=4)
    CLIPModel(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SparseSightError, match=r"lacks weights \(1, the first is text_projection.weight\)"):
        TextTower.from_pretrained(str(tmp_path))
    config.text_config.intermediate_size = 10**8
    config.save_pretrained(tmp_path)
    with pytest.raises(SparseSightError, match=r"text tower .* describes 1,\d+,\d+,\d+ weights, more than"):
        load_model(None, "cpu", text_tower=str(tmp_path))


def test_the_cache_of_the_hub_is_loaded(folder: Path, tmp_path: Path) -> None:
    """Its snapshots are links to the ``blobs`` beside them."""
    home = tmp_path / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        shutil.move(file, home / "blobs" / f"{file.name}-1")
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-1")
    checkpoint.check_folder(snapshot, "it")
    assert load_model(str(snapshot), "cpu").model is not None
    (snapshot / "config.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    (snapshot / "config.json").symlink_to("../../../config.json")
    with pytest.raises(SparseSightError, match="link out of the folder"):
        checkpoint.check_folder(snapshot, "it")


def test_shards_of_the_folder_are_loaded(folder: Path) -> None:
    model = load_model(str(folder), "cpu").model
    model.save_pretrained(folder / "shards", max_shard_size="100KB")
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / file, folder / "shards")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    again = load_model(str(folder / "shards"), "cpu").model
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
