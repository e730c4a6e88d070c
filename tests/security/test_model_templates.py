"""Chat templates and generation configs of a checkpoint that do harm, and models that load but cannot run."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsesight import SparseSightError, bundled
from sparsesight import checkpoint_limits as limits
from sparsesight.compare import prepare
from sparsesight.hf.loading import Loaded, load_model
from sparsesight.images import open_image
from tests.commands.command_line import run
from tests.in_turn import in_turn
from tests.security.test_model_folders import changed

HOSTILE_GENERATION = {
    "num_beams": 4,
    "num_return_sequences": 3,
    "do_sample": True,
    "temperature": 5.0,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "max_length": 3,
    "min_new_tokens": 50,
    "max_time": 0.0,
    "stop_strings": ["a"],
    "forced_eos_token_id": 5,
    "suppress_tokens": list(range(10, 40)),
    "bad_words_ids": [[5]],
    "guidance_scale": 7.0,
    "prompt_lookup_num_tokens": 3,
    "return_dict_in_generate": True,
    "custom_generate": "evil",
    "cache_implementation": "static",
    "use_cache": False,
}


def test_a_generation_config_changes_no_answer(folder: Path) -> None:
    """Beams, sampling, penalties, lengths, forced tokens: only the token ids of a checkpoint's own config count."""
    before = load_model(str(folder), "cpu")
    changed("generation_config.json", **HOSTILE_GENERATION)(folder)
    loaded = load_model(str(folder), "cpu")
    assert loaded.model.generation_config.to_dict() == before.model.generation_config.to_dict()
    assert loaded.model.generation_config.eos_token_id is not None
    for name in HOSTILE_GENERATION:
        assert getattr(loaded.model.generation_config, name, None) != HOSTILE_GENERATION[name]


def test_a_template_that_fails_in_an_evaluation(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are no traceback there either."""
    monkeypatch.setattr(loaded.processor, "chat_template", "{{ raise_exception('boom') }}")
    turns = [[{"role": "user", "content": [{"type": "text", "text": "What?"}]}]]
    with pytest.raises(SparseSightError, match=r"cannot make a prompt .*boom"):
        limits.apply_template(loaded.processor, turns)


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "loops": (LOOP, "did not end within"),
    "range": ("{% for i in range(1000000000000) %}x{% endfor %}", "Range too big"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "output": ("{{ 'x' * 5000000 }}", "characters"),
    "a long prompt": ("<image>{{ 'What is ' * 20000 }}", "characters"),
    "power": ("{{ 9**9**9 }}", "powers"),
    "powers of names": ("{% set n = 9 %}{{ (n ** n)**n }}", "powers"),
    "text in one step": ("{{ 'x' * 10000000000 }}", "MemoryError"),
    "width of a number": ("{{ '%10000000000d' % 1 }}", "MemoryError"),
    "width of text": ("{{ 'x'.center(10000000000) }}", "MemoryError"),
    "a list in one step": ("{{ [1] * 10000000000 }}", "MemoryError"),
    "attribute": ("{{ messages.__class__.__base__.__subclasses__() }}", "cannot make a prompt"),
    "syntax": ("{% if %}", "cannot make a prompt"),
    "error": ("{{ raise_exception('\x1b[2J[/x]') }}", "cannot make a prompt"),
}


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model(None, "cpu")


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_does_not_end_or_says_too_much(
    loaded: Loaded, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, words = TEMPLATES[case]
    monkeypatch.setattr(limits, "SECONDS", 0.3 if case == "loops" else 30)
    monkeypatch.setattr(loaded.processor, "chat_template", template)
    before, start = threading.active_count(), time.monotonic()
    with pytest.raises(SparseSightError, match=words) as caught:
        prepare(loaded, open_image(bundled.default_picture()), "What is this?")
    assert time.monotonic() - start < 30 and len(str(caught.value)) < 500
    assert threading.active_count() == before  # what loops is ended, not left behind


@pytest.mark.skipif(not limits.STATM.exists(), reason="memory is bounded on Linux only")
@pytest.mark.parametrize("case", ["text in one step", "a list in one step"])
def test_a_template_that_fills_the_memory_where_its_turns_are_read(
    loaded: Loaded, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the question is asked: turns are read from a chat without a picture."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(loaded.processor, "chat_template", TEMPLATES[case][0])
    assert Loaded(loaded.model, loaded.processor, "it").turns is None
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_is_out_of_time_ends_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """A template may be out of time while another error of it is being handled."""
    ended: list[type] = []

    def fails() -> None:
        try:
            raise MemoryError
        except MemoryError:
            try:
                while True:
                    pass
            except BaseException as late:
                ended.append(type(late))
                raise

    with pytest.raises(SparseSightError, match="did not end within"):
        limits.within(0.05, fails)
    # The one kind that a thread says nothing about, should it strike outside of what is caught.
    assert ended == [SystemExit] and capfd.readouterr().err == ""


def test_keyword_arguments_are_no_powers(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ dict(**{'a': '<image>'}).a }} {{ dict(1 | list, **{}) if false }}{{ '9**9' }}"
    monkeypatch.setattr(loaded.processor, "chat_template", template)
    assert prepare(loaded, open_image(bundled.default_picture()), "What is this?")["input_ids"].shape[1] > 100


SQUARE = {"height": 60_000, "width": 60_000}
CANNOT_RUN: dict[str, Callable[[Path], None]] = {
    "text is the picture": changed("config.json", image_token_id=3, image_token_index=3),
    "no such layer": changed("config.json", vision_feature_layer=-99),
    "pictures cropped to a wall": lambda folder: of_pictures(folder, crop_size=SQUARE),
    "pictures scaled to a wall": lambda folder: of_pictures(folder, size=SQUARE),
}
COMMANDS = {
    "ask": ("ask", "--max-new-tokens", "2"),
    "bench": ("bench", "--repeats", "1", "--steps", "1", "--retain", "64"),
    "eval": ("eval", "--tasks", "scenes", "--limit", "1", "--retain", "64"),
    "demo": ("demo",),
}


def of_pictures(folder: Path, **values: Any) -> None:
    data = json.loads((folder / "processor_config.json").read_text())
    data["image_processor"] |= values
    (folder / "processor_config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(("command", "case"), in_turn(list(COMMANDS), list(CANNOT_RUN)))
def test_commands_on_a_model_that_loads_but_cannot_run(
    folder: Path, command: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "wall" in case and not limits.STATM.exists():
        pytest.skip("memory is bounded on Linux only")
    if command == "demo":
        server = pytest.importorskip("sparsesight.demo.server")
        monkeypatch.setattr(server, "serving", None)  # it is not served
    monkeypatch.chdir(folder.parent)
    CANNOT_RUN[case](folder)
    result = run(*COMMANDS[command], "--model", str(folder), "--device", "cpu")
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2, repr(result.exception)
    *told, message = result.stderr.splitlines()
    assert told in ([], [f"loading {folder}"])
    assert message.startswith("error: ") and len(message) < 600
    said = ("cannot answer", "more than the limit", "the prompt has no visual tokens")
    assert any(x in message for x in said)
