"""What is added to a server's command, and what vLLM and the plugin say of the whole before a model is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sparsesight import SparseSightError, SparseVLM, SparseVLMPlus, bundled
from sparsesight.vllm.config import method_of
from sparsesight.vllm.serving import Addition, Parser, for_our_model, needed
from sparsesight.vllm.settings import records_graphs

with_vllm = pytest.mark.vllm
METHOD = SparseVLMPlus(64)


def flags(added: list[Addition]) -> list[str]:
    return [x.words[0] for x in added]


def test_what_is_needed_is_added_with_a_reason() -> None:
    added = needed({}, METHOD, {}, graphs=True)
    assert flags(added) == [
        "--additional-config",
        "--middleware",
        "--block-size",
        "VLLM_USE_V2_MODEL_RUNNER",
    ]
    assert json.loads(added[0].words[1]) == {"sparsesight": METHOD.to_dict()}
    assert all(len(x.why.split()) > 4 for x in added)
    assert [x.is_variable for x in added] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("chosen", "environment", "graphs", "gone"),
    [
        ({"middleware": ["sparsesight.vllm.headers.OutcomeHeader"]}, {}, True, "--middleware"),
        ({"block_size": 64}, {}, True, "--block-size"),
        ({}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}, True, "VLLM_USE_V2_MODEL_RUNNER"),
    ],
)
def test_what_the_user_chose_is_not_touched(chosen: Any, environment: Any, graphs: bool, gone: str) -> None:
    before, after = flags(needed({}, METHOD, {}, True)), flags(needed(chosen, METHOD, environment, graphs))
    assert set(before) - set(after) == {gone}


def test_other_entries_of_the_user_stay() -> None:
    given = {"other": 1, "sparsesight": {"beside": True}}
    added = needed({"additional_config": given}, METHOD, {}, False)
    assert json.loads(added[0].words[1]) == {"other": 1, "sparsesight": {"beside": True, **METHOD.to_dict()}}
    with pytest.raises(SparseSightError, match=r"--additional-config.*leave it out"):
        needed({"additional_config": {"sparsesight": {"retain": 1}}}, METHOD, {}, False)


@pytest.mark.parametrize("value", ["x{", [1], "null", 3])
def test_additional_config_is_an_object(value: Any) -> None:
    """vLLM hands on whatever was written there, as text if it is no JSON."""
    with pytest.raises(SparseSightError, match=r"--additional-config.*not a JSON object"):
        needed({"additional_config": value}, METHOD, {}, graphs=True)


@pytest.mark.parametrize(
    "name", ["sparsesight_retain", "sparsesight_retian", "SparseSight", "sparsesight\ud800"]
)
def test_an_entry_that_nothing_reads_is_not_passed_by(name: str) -> None:
    """A server would start and prune by other settings, or not at all."""
    for others in ({}, {"sparsesight": {"method": "fastv"}}):
        with pytest.raises(SparseSightError, match=r"--additional-config.*is not read"):
            method_of({**others, name: 3})
    assert method_of({"another": 3}) is None


def test_the_bundled_model_takes_little_memory() -> None:
    assert flags(for_our_model("bundled", {}, {})) == [
        "--served-model-name",
        "--dtype",
        "--kv-cache-memory-bytes",
    ]
    chosen = {"served_model_name": ["x"], "dtype": "auto", "num_gpu_blocks_override": 9}
    assert not for_our_model("bundled", chosen, {})
    assert len(for_our_model("bundled", {}, {"VLLM_CPU_KVCACHE_SPACE": "1"})) == 2
    name, memory = for_our_model("smol", {}, {})  # in the precision of its checkpoint
    assert name.words == ("--served-model-name", "smol") and memory.words[0] == "--kv-cache-memory-bytes"


class TestWithVllm:
    """Against vLLM's own reading of the arguments."""

    pytestmark = with_vllm

    def checked(self, *given: str, method: Any = METHOD, added: bool = True) -> None:
        parser = Parser()
        flags: list[str] = []
        if added:
            made = needed(parser.chosen(["m", *given]), method, {}, records_graphs())
            flags = [word for x in made if not x.is_variable for word in x.words]
        small = [str(bundled.MODEL_PATH), "--dtype", "float32", "--enforce-eager"]
        parser.check([*small, *given, *flags], method)

    def test_what_the_user_chose_is_seen(self) -> None:
        parser = Parser()
        assert parser.chosen(["m"]) == {}
        given = [
            "--no-enable-prefix-caching",
            "-tp",
            "2",
            "--additional_config.other",
            "3",
            "-O0",
            "--port",
            "8001",
        ]
        chosen = parser.chosen(["m", *given])
        assert chosen.pop("additional_config") == {"other": 3}
        assert chosen.pop("enable_prefix_caching") is False
        assert (chosen["tensor_parallel_size"], chosen["optimization_level"], chosen["port"]) == (
            2,
            "0",
            8001,
        )

    def test_what_works_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
        self.checked("--max-num-seqs", "4", "--additional-config", '{"other": 1}')

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (("--scheduler-cls", "my.Scheduler"), "--scheduler-cls"),
            (("--pipeline-parallel-size", "2"), "--pipeline-parallel-size 1"),
            (("--nonsense", "1"), "vLLM: unrecognized arguments: --nonsense"),
            (("--port", "x"), "vLLM: argument --port"),
            (("--max-model-len", "9999999"), "vLLM: .*max_model_len"),
            (("--additional-config.other", "1"), "one JSON object"),
            (("--enable-auto-tool-choice",), "vLLM: .*--tool-call-parser"),
            (("--config", "/nowhere/at/all.yaml"), "vLLM: --config: .*No such file"),
            (("--config", "/nowhere/at/all"), "vLLM: --config: .*yaml"),
        ],
    )
    def test_what_cannot_work_is_refused_in_a_sentence(
        self, given: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
        with pytest.raises(SparseSightError, match=words):
            self.checked(*given)

    def test_a_method_that_cannot_be_served_is_refused(self) -> None:
        with pytest.raises(SparseSightError, match="in advance"):
            self.checked(method=SparseVLM(adaptive=True))

    def test_a_plugin_that_was_left_out_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm import EngineArgs

        self.checked()
        monkeypatch.setattr(EngineArgs, "create_engine_config", EngineArgs.create_engine_config.__wrapped__)
        monkeypatch.setenv("VLLM_PLUGINS", "another")
        with pytest.raises(SparseSightError, match=r"VLLM_PLUGINS 'another'.*add sparsesight"):
            self.checked()
