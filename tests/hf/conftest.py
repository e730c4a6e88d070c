"""Fixtures for the transformers integration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers.integrations import flex_attention as integration


@pytest.fixture(autouse=True)
def uncompiled_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run flex attention as PyTorch's reference, not compiled.

    The compiled CPU kernel of torch 2.13 does not build for changing shapes, with or without pruning (its generated
    C++ names symbols that do not exist); what it computes and takes as masks is the same.
    """

    def reference(self: Any) -> Any:
        return flex_attention

    def uncompiled(**how: Any) -> Any:
        return create_block_mask(**{**how, "_compile": False})

    monkeypatch.setattr(integration.WrappedFlexAttention, "__call__", reference)
    monkeypatch.setattr(
        "transformers.masking_utils.create_block_mask", uncompiled
    )  # compiling takes longer than the tests


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models run faster without handing work to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
