"""The guide's table of families says what the matrix tries."""

from __future__ import annotations

from tests.hf.families import ALL
from tests.hf.families.base import missing
from tests.hf.families.refused import REFUSED
from tests.hf.families.table import around, table


def test_the_page_has_the_table_of_the_matrix() -> None:
    assert around()[1] == table(), "run `make families`"


def test_names_are_unique() -> None:
    for names in ([f.name for f in ALL], [(f.name, f.layers) for f in REFUSED]):
        assert len(names) == len(set(names))


def test_every_family_of_this_transformers_is_tried() -> None:
    """What the installed version lists under image-text-to-text is in the matrix, or refused."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as LISTED

    tried = {f.name for f in (*ALL, *REFUSED)} | {f.name.split("-")[0] for f in ALL}
    assert LISTED.keys() - tried == UNTRIED & LISTED.keys()


UNTRIED = {"mistral4"}  # a language model; it is in the matrix as mistral3-mistral4


def test_a_family_that_is_too_new_says_so() -> None:
    assert missing("no_such_family").endswith("has no no_such_family")
    assert not missing("llava-siglip")
