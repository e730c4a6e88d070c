"""What fits follows from measured peaks, and says from which."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsesight.bench.fits import Fit, fits, largest
from sparsesight.bench.footprint import footprint
from sparsesight.random_models import Shape, random_llava, repeat_prompt
from tests.bench.small import SMALL


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (99, Fit(None, "1 does not fit")),
        (100, Fit(1, "between 1 and 4")),
        (250, Fit(2, "between 1 and 4")),
        (399, Fit(3, "between 1 and 4")),
        (400, Fit(4, "between 4 and 8")),
        (900, Fit(6, "between 4 and 8")),
        (2800, Fit(13, "beyond 4 and 8")),
    ],
)
def test_linear_between_neighbours_and_beyond_the_last(room: int, expected: Fit) -> None:
    assert largest([1, 4, 8], [100, 400, 1400], room) == expected


def test_peaks_that_do_not_grow_say_nothing() -> None:
    assert largest([1, 4], [100, 100], 500) == Fit(None, "beyond 1 and 4: peaks do not grow")


def test_a_row_for_each_method_budget_and_what_stays() -> None:
    def row(batch: int, visual: int, retain: int) -> dict[str, Any]:
        return {
            "method": "random",
            "retain": retain,
            "batch": batch,
            "visual": visual,
            "depth": 24,
            "weights_bytes": 50,
            "peak_dense_bytes": batch * visual,
            "peak_sparse_bytes": batch * visual // 2,
        }

    rows = [row(b, v, r) for v in (100, 300) for b in (1, 2) for r in (8, 16)]
    batch, visual = fits(rows, 1050.5e-9)
    beyond = ["beyond 1 and 2"] * 2
    assert batch.heads[2:5] == ["visual", "depth", "largest batch"]
    assert batch.cells[0] == ["random", "8", "100", "24", "20", "10", "2.00x", *beyond]
    assert [cells[:3] for cells in batch.cells] == [
        ["random", r, v] for v in ("100", "300") for r in ("8", "16")
    ]
    beyond = ["beyond 100 and 300"] * 2
    assert visual.heads[2:5] == ["batch", "depth", "most visual tokens"]
    assert visual.cells[3] == ["random", "16", "2", "24", "1000", "500", "2.00x", *beyond]
    assert [x.heads[4] for x in fits([x for x in rows if x["visual"] == 100], 1050.5e-9)] == ["largest batch"]
    nothing = fits(rows, 100e-9)[0].cells[0]
    assert nothing[4:7] == ["1", "-", "-"] and nothing[8] == "1 does not fit"


def test_the_batch_that_was_said_to_fit_fits() -> None:
    """And one more does not: against the peak of a prefill of that very batch."""
    model, prompt = random_llava(Shape.parse(SMALL), torch.float32, "cpu")
    decoder = model.get_decoder()

    def peak(batch: int) -> int:
        return footprint(model, repeat_prompt(prompt, batch), decoder).peak

    room = peak(7) + 1
    assert largest([2, 4], [peak(2), peak(4)], room) == Fit(7, "beyond 2 and 4")
