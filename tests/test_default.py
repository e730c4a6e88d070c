"""The default method: one name, which everything that takes a method reads."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from sparsesight import sparsify
from sparsesight.commands.options import choose_method, choose_plain_method
from sparsesight.commands.tune import METHODS as TUNED
from sparsesight.method_names import DEFAULT
from sparsesight.methods import METHODS
from sparsesight.settings import entry_method
from sparsesight.vllm.config import method_of
from sparsesight.vllm.validation import check_method

ROOT = Path(__file__).resolve().parent.parent
KIND = METHODS[DEFAULT]


def test_where_no_method_is_named_it_is_the_default() -> None:
    assert inspect.signature(sparsify).parameters["method"].default == DEFAULT
    assert choose_method(None, {}) == choose_plain_method(None, "demo", {}) == DEFAULT
    assert entry_method({"retain": 32}) == KIND(32) == method_of({"sparsesight": {"retain": 32}})
    assert TUNED.split(",")[0] == DEFAULT


def test_the_demo_begins_with_it() -> None:
    pytest.importorskip("gradio")
    from sparsesight.demo.asked import Asked
    from sparsesight.demo.tabs import COMPARED

    assert inspect.signature(Asked).parameters["method"].default == DEFAULT == COMPARED[0]
    assert set(COMPARED) <= METHODS.keys()


def test_it_needs_nothing_that_a_model_or_a_host_may_lack() -> None:
    assert not KIND.requires_attention and not KIND().requires_vision and not KIND().requires_text_tower
    assert not KIND.requires_frames and not KIND().data_dependent and not KIND().weights_keys
    assert KIND().one_budget  # which a request to a server can change
    assert check_method(KIND(), 32) and check_method(KIND(), 36, tuple(range(2, 35)))  # deepstack
    assert KIND(64).plan(2880, 32, KIND().stage_layers(32)).equal_tokens < 65  # of a picture of any size


def test_lists_and_pages_name_it() -> None:
    assert [name for name, kind in METHODS.items() if "default" in kind.when] == [DEFAULT]
    for page, words in (
        ("README.md", f"| `{DEFAULT}` (default) |"),
        ("docs/methods.md", f"**The default is `{DEFAULT}`**"),
        ("docs/howto/my-model.md", f"without a name it is `{DEFAULT}`"),
        ("docs/howto/upstream.md", f"the default is another method, `{DEFAULT}`"),
        ("docs/how-it-works.md", f"This is [`{DEFAULT}`]"),
    ):
        assert words in (ROOT / page).read_text(encoding="utf-8"), page
