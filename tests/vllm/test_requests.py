"""What becomes of a request's visual tokens, and what is refused, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sparsesight import BudgetError, SparseSightError
from sparsesight.vllm.requests import (
    BY_REQUEST,
    BY_SERVER,
    NO_TEXT,
    ROUNDED,
    SMALL,
    UNMET,
    Outcome,
    Rule,
    check_arguments,
    outcome_of,
)


def config(entry: Any, injections: int = 0) -> Any:
    return SimpleNamespace(
        additional_config={"sparsesight": entry} if entry else {},
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(
                vision_config=SimpleNamespace(deepstack_visual_indexes=[*range(injections)])
            ),
            hf_text_config=SimpleNamespace(num_hidden_layers=8),
        ),
        cache_config=SimpleNamespace(block_size=16),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=8192, long_prefill_token_threshold=0),
    )


def pictures(*sizes: int) -> Any:
    """A rendered prompt."""
    return {"mm_placeholders": {"image": [SimpleNamespace(get_num_embeds=lambda n=n: n) for n in sizes]}}


def params(extra_args: Any, prompt_logprobs: int | None = None) -> Any:
    return SimpleNamespace(extra_args=extra_args, prompt_logprobs=prompt_logprobs)


def check_request(config: Any, prompt: Any, params: Any) -> Outcome | None:
    rule = Rule.of(config)
    assert rule is not None
    return outcome_of(rule, prompt, params)


SERVER = {"method": "sparsevlm+", "retain": 100, "layers": [1, 3, 5]}


@pytest.mark.parametrize(
    ("entry", "prompt", "extra_args"),
    [
        (SERVER, {"prompt_token_ids": [1]}, None),
        (SERVER, pictures(576), None),
        (SERVER, pictures(576), {"other": 1}),
        (SERVER, pictures(576, 576), {"sparsesight_retain": 0.5}),
        (SERVER, pictures(576, 576), {"sparsesight_retain": "none"}),
    ],
)
def test_what_can_be_passes(entry: Any, prompt: Any, extra_args: Any) -> None:
    check_request(config(entry), prompt, params(extra_args))


def test_log_probabilities_of_dropped_tokens_are_refused() -> None:
    with pytest.raises(SparseSightError, match=r"prompt_logprobs=0.*none"):
        check_request(config(SERVER), pictures(576), params(None, 0))
    check_request(config(SERVER), pictures(576), params({"sparsesight_retain": 1.0}, 0))
    check_request(config(SERVER), {"prompt_token_ids": [1]}, params(None, 0))


def test_a_budget_that_the_pictures_cannot_meet_is_refused_where_the_request_names_it() -> None:
    with pytest.raises(BudgetError, match=r"retain=100 of 1152 visual tokens cannot be met"):
        check_request(config(SERVER), pictures(576, 576), params({"sparsesight_retain": 100}))


@pytest.mark.parametrize("extra_args", [None, {"other": 1}])
@pytest.mark.parametrize("count", [2, 5])
def test_a_client_that_names_no_budget_is_not_blamed_for_the_servers(extra_args: Any, count: int) -> None:
    for entry in (
        SERVER,
        {
            "method": "compose",
            "parts": [
                {"method": "fastv", "retain": 0.9, "layers": [1]},
                {"method": "sparsevlm+", "retain": 9, "layers": [5]},
            ],
        },
    ):
        check_request(config(entry), pictures(*[576] * count), params(extra_args))
    with pytest.raises(SparseSightError, match="prompt_logprobs=0"):  # it is pruned
        check_request(config(SERVER), pictures(*[576] * count), params(extra_args, 0))


@pytest.mark.parametrize("prompt", [pictures(576), {"prompt_token_ids": [1]}])
def test_a_budget_that_is_none_is_refused(prompt: Any) -> None:
    with pytest.raises(SparseSightError, match="sparsesight_retain=-3"):
        check_request(config(SERVER), prompt, params({"sparsesight_retain": -3}))


def test_layers_before_the_last_features_are_added_are_refused() -> None:
    check_request(config({**SERVER, "layers": [2, 3, 5]}, injections=3), pictures(200), params(None))
    check_request(config({"retain": [100, 50]}, injections=3), pictures(200), params(None))
    with pytest.raises(SparseSightError, match=r"cannot prune after \[1\]; possible: \(2, 3, 4, 5, 6\)"):
        check_request(config(SERVER, injections=3), pictures(200), params(None))


def test_a_server_without_an_entry_has_no_rule() -> None:
    assert Rule.of(config(None)) is None


def chat(*rows: int) -> Any:
    """A rendered prompt: runs of text (positive) and of one picture each (negative)."""
    starts = [sum(map(abs, rows[:i])) for i in range(len(rows))]
    places = [
        SimpleNamespace(
            get_num_embeds=lambda n=-n: n, extract_embeds_range=lambda a=a, n=-n: [(a, a + n - 1)]
        )
        for a, n in zip(starts, rows, strict=True)
        if n < 0
    ]
    return {"mm_placeholders": {"image": places}, "prompt_token_ids": [1] * sum(map(abs, rows))}


def test_what_is_kept_is_known_before_the_engine() -> None:
    told = check_request(config(SERVER), chat(5, -576, 9), params(None))
    assert told is not None and not told.reason
    assert (told.visual, told.first, told.method) == (576, 5, "sparsevlm+")
    assert len(told.counts) == 3 and told.counts[0] > told.counts[2] and 99 < told.kept < 100 + 16
    own = check_request(config(SERVER), chat(5, -576, 9), params({"sparsesight_retain": [30, 20, 10]}))
    assert own is not None and own.counts == (32, 32, 16)  # in whole blocks
    assert check_request(config(SERVER), chat(9), params(None)) is None


@pytest.mark.parametrize(
    ("entry", "prompt", "extra_args", "reason"),
    [
        (SERVER, chat(5, -576, 9), {"sparsesight_retain": "none"}, BY_REQUEST),
        (SERVER, chat(5, -576, 9), {"sparsesight_retain": 1.0}, BY_REQUEST),
        ({"retain": "none"}, chat(5, -576, 9), None, BY_SERVER),
        (SERVER, chat(5, -576), None, NO_TEXT),
        (SERVER, chat(5, -64, 9), None, SMALL),
        (SERVER, chat(5, -576, 9), {"sparsesight_retain": [576, 576, 576]}, SMALL),
        (SERVER, chat(5, -576, 9), {"sparsesight_retain": 575}, ROUNDED),
        (
            {
                "method": "compose",
                "parts": [
                    {"method": "fastv", "retain": 0.9, "layers": [1]},
                    {"method": "sparsevlm+", "retain": 9, "layers": [5]},
                ],
            },
            chat(5, -576, 9),
            None,
            UNMET,
        ),
    ],
)
def test_why_a_prompt_is_not_pruned(entry: Any, prompt: Any, extra_args: Any, reason: str) -> None:
    told = check_request(config(entry), prompt, params(extra_args))
    assert told is not None and told.reason == reason and told.visual


def test_arguments_are_checked_before_pictures_are_read() -> None:
    rule = Rule.of(config(SERVER))
    assert rule is not None

    def request(**given: Any) -> Any:
        return SimpleNamespace(**{"model_extra": None, "vllm_xargs": None, **given})

    check_arguments(rule, request(vllm_xargs={"sparsesight_retain": "33%", "other": 1}))
    check_arguments(rule, SimpleNamespace())  # a request of another kind
    for given, words in (
        ({"vllm_xargs": {"sparsesight_retain": "many"}}, "sparsesight_retain 'many'"),
        ({"vllm_xargs": {"sparsesight_retian": 64}}, "did you mean 'sparsesight_retain'"),
        ({"model_extra": {"sparsesight_retain": 64}}, '"vllm_xargs": {"sparsesight_retain": ...}'),
    ):
        with pytest.raises(SparseSightError, match=words):
            check_arguments(rule, request(**given))
