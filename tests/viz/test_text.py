"""Kept tokens as text."""

from __future__ import annotations

import pytest

from sparsesight import viz
from tests.viz.made_records import look, smooth, stage
from tests.viz.test_draw import MERGING


def test_text_shows_two_rows_of_patches_per_line() -> None:
    #   row 0: 0 . . 3      row 2: . . . .
    #   row 1: 4 5 . .      row 3: . 13 . 15
    of = look(smooth(8, 8), stage(16, [0, 3, 4, 5, 13, 15]))
    assert viz.text(of) == "layer 2: 6 of 16\n█▄·▀\n·▄·▄"
    assert viz.text(of, ascii_only=True) == "layer 2: 6 of 16\n:. '\n . ."


def test_text_of_an_odd_number_of_rows() -> None:
    assert viz.text(look(smooth(9, 9), stage(9, [1, 8]), side=3)) == "layer 2: 2 of 9\n·▀·\n··▀"


def test_text_names_merged_tokens_and_stands_side_by_side() -> None:
    of = look(smooth(8, 8), MERGING, stage(16, [0], layer=-1))
    assert viz.text(of).splitlines()[0] == "layer 2: 3+1 of 16       before layer 0: 1 of 16"


@pytest.mark.parametrize("ascii_only", [False, True])
def test_three_stages_of_llava_fit_80_columns(ascii_only: bool) -> None:
    stages = [
        stage(576, range(0, 576, n), [575], [575], layer=layer) for n, layer in ((1, 2), (2, 6), (7, 15))
    ]
    lines = viz.text(look(smooth(8, 8), *stages, side=24), ascii_only=ascii_only).splitlines()
    assert len(lines) == 1 + 12
    assert max(map(len, lines)) <= 80
    assert "".join(lines).isascii() == ascii_only


def test_stages_that_do_not_fit_go_below_and_nothing_is_lost() -> None:
    of = look(smooth(8, 8), *(stage(16, [i], layer=i) for i in range(4)))
    blocks = viz.text(of, width=40).split("\n\n")
    assert [block.splitlines()[0].count("layer") for block in blocks] == [2, 2]
    assert len(viz.text(of, width=1).split("\n\n")) == 4
    assert sum(viz.text(of, width=40).count(sign) for sign in "▀▄") == 4


def test_text_of_no_stages_is_empty() -> None:
    assert viz.text(look(smooth(8, 8))) == ""
