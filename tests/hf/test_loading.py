"""Models that load, and the sentence for each that does not."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from typer.main import get_command

from sparsesight import SparseSightError, bundled
from sparsesight.commands.cli import app
from sparsesight.hf import loading
from sparsesight.hub import check_found
from tests.commands.command_line import (
    ask,
    asked,
    plain_surroundings,  # noqa: F401
    refused,
    run,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be damaged."""
    return Path(shutil.copytree(bundled.MODEL_PATH, tmp_path / "model"))


def refused_model(name: str | Path, *args: str) -> str:
    message = refused(ask("--model", str(name), *args))
    assert repr(str(name)) in message
    return message


def test_a_local_model_is_loaded_in_the_dtype_asked_for(checkpoint: Path) -> None:
    assert asked("--model", str(checkpoint))["model"] == str(checkpoint)
    assert loading.load_model(str(checkpoint)).model.dtype == torch.float32
    assert loading.load_model(str(checkpoint), dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["./no/model", "no/such/model", "/no/model", "a b", "~/no-model", "C:\\model"]
)
def test_a_model_that_does_not_exist(name: str) -> None:
    assert "does not exist" in refused_model(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "empty folder" in refused_model(tmp_path / "model")
    (tmp_path / "model" / "a.txt").touch()
    assert "no config.json" in refused_model(tmp_path / "model")
    assert "is a file" in refused_model(tmp_path / "model" / "a.txt")


def test_a_language_model_is_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config["text_config"]))
    assert "not a vision-language model" in refused_model(checkpoint)


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "no weights" in refused_model(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    message = refused_model(checkpoint)
    assert "pickle" in message and "pytorch_model.bin" in message
    assert not Path("ran").exists()


def test_damaged_weights(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    assert "damaged weights" in refused_model(checkpoint)


def test_missing_and_misshapen_weights(checkpoint: Path) -> None:
    """Transformers would go on with random numbers in place of a missing weight."""
    weights = load_file(checkpoint / "model.safetensors")
    name = next(key for key in weights if key.endswith("o_proj.weight"))
    whole = weights.pop(name)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    assert "o_proj.weight" in refused_model(checkpoint)
    save_file({**weights, name: whole[:5].clone()}, checkpoint / "model.safetensors", {"format": "pt"})
    assert "other shapes" in refused_model(checkpoint)


def test_a_configuration_that_cannot_be_read(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    assert "not a valid JSON file" in refused_model(checkpoint)
    (checkpoint / "config.json").write_text('{"model_type": "florb"}')
    assert "upgrade transformers" in refused_model(checkpoint)


def test_a_model_without_a_processor(checkpoint: Path) -> None:
    (checkpoint / "processor_config.json").unlink()
    assert "image processor" in refused_model(checkpoint)


def test_a_processor_that_needs_torchvision(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor

    def missing(*args: Any, **options: Any) -> None:
        raise ImportError(
            "\nAProcessor requires the Torchvision library but it was not found in your environment. Go"
        )

    monkeypatch.setattr(AutoProcessor, "from_pretrained", missing)
    assert "needs torchvision: pip install torchvision torch==" in refused_model(checkpoint)


def test_a_broken_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ messages[0].content.florb.florb }}")
    assert "cannot make a prompt" in refused_model(checkpoint)


def test_a_models_own_code_does_not_run_unasked(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (checkpoint / "own.py").write_text("open('ran', 'w')\n")
    assert "--trust-remote-code" in refused_model(checkpoint)
    assert not Path("ran").exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_what_is_asked_of_transformers(trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    asked_for: dict[str, dict[str, Any]] = {}

    def spy(kind: Any, answer: Any = None) -> None:
        def from_pretrained(where: Any, **options: Any) -> Any:
            asked_for[kind.__name__] = options
            if answer is None:
                raise OSError("far enough")
            return answer

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: "config.json")
    spy(AutoConfig, AutoConfig.from_pretrained(bundled.MODEL_PATH))
    spy(AutoProcessor, AutoProcessor.from_pretrained(bundled.MODEL_PATH))
    spy(AutoModelForImageTextToText)
    assert "far enough" in refused_model("owner/model", *["--trust-remote-code"] * trusted)
    assert len(asked_for) == 3
    assert {options["trust_remote_code"] for options in asked_for.values()} == {trusted}
    assert asked_for["AutoModelForImageTextToText"]["use_safetensors"] is True


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        (
            "https://huggingface.co/llava-hf/llava-1.5-7b-hf/tree/main",
            "its Hub id, 'llava-hf/llava-1.5-7b-hf'",
        ),
        ("https://huggingface.co/datasets/owner/name", "a Hugging Face Hub id (owner/name), or a folder"),
        ("s3://models/llava", "a Hugging Face Hub id (owner/name), or a folder"),
    ],
)
def test_a_url_is_no_model(url: str, instead: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    takers = [name for name, command in commands.items() if any("--model" in x.opts for x in command.params)]
    assert {"ask", "bench", "demo", "eval", "tune"} <= set(takers)
    for name in takers:
        assert f"model '{url}' is a URL, which is not read as a model: give {instead}" in refused(
            run(name, "--model", url)
        )


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be reached" in refused_model("no-such-owner/no-such-model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", raising(TimeoutError()))
    assert "cannot be reached" in refused_model("no-such-owner/no-such-model")


def test_a_model_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = httpx.Response(404, request=httpx.Request("HEAD", "http://hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = RepositoryNotFoundError("404", response=answer)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", raising(error))
    assert "nor on the Hugging Face Hub" in refused_model("no-such-owner/no-such-model")
    for later in (GatedRepoError("403", response=answer), HfHubHTTPError("500", response=answer)):
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", raising(later))
        check_found("owner/model")  # loading says what this is


def raising(error: Exception) -> Any:
    def call(*args: Any, **how: Any) -> None:
        raise error

    return call


def test_a_wrong_name_is_told_before_anything_slow_is_imported(tmp_path: Path) -> None:
    """A command that loads torch first takes seconds for a sentence."""
    for command in (["ask"], ["bench"], ["eval", "--tasks", "scenes"], ["demo"]):
        code = (
            "import sys\nfrom sparsesight.commands.cli import app\n"
            f"try: app({[*command, '--model', 'no-such-owner/no-such-model']})\n"
            "except SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        environment["PYTHONPATH"] = str(Path(bundled.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout == "False False\n", done.stderr
        assert "cannot be reached" in done.stderr


def hub_cache(home: Path) -> Path:
    """The bundled model as the Hub's cache has it, in its snapshot."""
    snapshot = home / "models--owner--model" / "snapshots" / "abc"
    shutil.copytree(bundled.MODEL_PATH, snapshot)
    refs = home / "models--owner--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    return snapshot


def test_a_model_of_the_hub_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder is whose config describes more than its files hold."""
    snapshot = hub_cache(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert loading.load_model("owner/model", "cpu").name == "owner/model"
    config = json.loads((snapshot / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 3 * 10**6
    (snapshot / "config.json").write_text(json.dumps(config))
    with pytest.raises(SparseSightError, match=r"'owner/model': its config.json describes 9,.* can hold"):
        loading.load_model("owner/model", "cpu")
    (snapshot / "model.safetensors").rename(snapshot / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "part.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SparseSightError, match=r"'owner/model': its config.json describes 9,.* can hold"):
        loading.load_model("owner/model", "cpu")


def test_without_a_connection_no_further_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait for its own retries."""
    asked_for: list[str] = []

    def cached_file(name: str, file: str, **how: Any) -> None:
        asked_for.append(file)

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SparseSightError, match="cannot be reached"):
        loading.load_model("no-such-owner/no-such-model", "cpu")
    assert asked_for.count("config.json") >= 1 and not {"tokenizer.json", "adapter_config.json"} & set(
        asked_for
    )


@pytest.mark.parametrize("name", ["transformers.modeling_utils", "huggingface_hub.utils._http"])
def test_retries_and_warnings_do_not_bury_the_line(name: str) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        with loading.quiet():
            logger.warning("retrying")
        assert said == []
        logger.error("after")
        assert said == ["after"]
    finally:
        logger.removeHandler(handler)
