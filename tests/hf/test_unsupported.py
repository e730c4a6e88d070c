"""Families that cannot be pruned are refused before anything is installed, with the reason."""

from __future__ import annotations

import pytest

from sparsesight import UnsupportedModelError, sparsify
from sparsesight.families import FAMILIES, UNSUPPORTED_LAYERS
from tests.hf.families.refused import REFUSED, Refused


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_refused(family: Refused) -> None:
    if family.missing:
        pytest.skip(family.missing)
    model = family.build()
    with pytest.raises(UnsupportedModelError) as caught:
        sparsify(model)
    message = str(caught.value)
    assert message.endswith(family.why) and type(model).__name__ in message
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_every_refusal_is_tried() -> None:
    assert {f.name for f in REFUSED if not f.layers} == {
        name for name, family in FAMILIES.items() if family.unsupported
    }
    assert {f.layers for f in REFUSED if f.layers} <= UNSUPPORTED_LAYERS.keys()
