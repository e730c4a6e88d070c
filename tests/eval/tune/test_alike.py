"""Pictures that are nearly the same are named; groups and equal files count as one; the promise holds for clusters."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from sparsesight import SparseSightError
from sparsesight.eval.own.read import read_rows
from sparsesight.eval.records import Item
from sparsesight.eval.tune.alike import BLOCK, find_alike, near_pairs
from sparsesight.eval.tune.plan import make_plan
from sparsesight.eval.tune.run import unit_losses
from sparsesight.eval.tune.search import search
from sparsesight.scenes.clips import examples
from sparsesight.scenes.scenes import render


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes, the first once more as JPEG of half the size, and two frames of a clip."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        render(9_900_000 + seed).image.save(folder / f"scene{seed}.png")
    render(9_900_000).image.resize((168, 168)).save(folder / "copy.jpg", quality=60)
    clip = next(islice(examples("val"), 1))
    for number in range(2):
        clip.frames[number].save(folder / f"frame{number}.png")
    return folder


def written(folder: Path, *rows: dict[str, str]) -> Path:
    file = folder / "my.jsonl"
    file.write_text("\n".join(json.dumps({"question": "?", **row}) for row in rows))
    return file


def test_copies_and_frames_are_named(pictures: Path) -> None:
    names = ("scene0.png", "scene1.png", "copy.jpg", "frame0.png", "scene2.png", "frame1.png", "scene3.png")
    found = find_alike(read_rows(written(pictures, *({"image": x} for x in names))))
    assert found is not None and (found.rows, found.units, found.groups) == (4, 4, 2)
    assert found.pairs == (("line 1", "line 3"), ("line 4", "line 6"))
    assert "4 rows show pictures that are nearly the same" in found.sentence()
    assert 'the same "group"' in found.sentence()


def test_damaged_pictures_are_named_before_a_model_is_loaded(pictures: Path) -> None:
    data = (pictures / "scene3.png").read_bytes()
    (pictures / "cut.png").write_bytes(data[: len(data) // 2])  # its header is whole
    rows = read_rows(
        written(pictures, *({"image": x} for x in ("scene0.png", "cut.png", "scene1.png", "cut.png")))
    )
    with pytest.raises(SparseSightError, match=r"2 of 4 rows cannot be asked: line 2: .*damaged.*; line 4: "):
        find_alike(rows)


def test_rows_of_one_group_are_one_unit(pictures: Path) -> None:
    rows = read_rows(
        written(
            pictures,
            {"image": "scene0.png", "group": "a"},
            {"image": "copy.jpg", "group": "a"},
            {"image": "scene1.png", "group": "b"},
            {"image": "scene2.png"},
            {"image": "scene1.png", "group": "a"},  # joins both groups
        )
    )
    assert [row.unit == rows[0].unit for row in rows] == [True, True, True, False, True]
    assert find_alike(rows) is None, "what is one unit already needs no warning"


def test_pairs_are_those_of_all_comparisons() -> None:
    """In blocks by brightness, beside every pair written out."""
    rng = np.random.default_rng(0)
    n = BLOCK + 90
    small = (rng.uniform(0, 255, (n, 1)) + rng.normal(0, 20, (n, 48))).clip(0, 255).astype(np.float32)
    small[5], small[n - 1] = small[n - 3] + 2, small[7]
    gaps = np.sqrt(((small[:, None] - small[None]) ** 2).mean(2))
    limit = np.maximum(0.35 * small.std(1), 1)
    expected = [(a, b) for a, b in np.argwhere(gaps <= np.minimum(limit[:, None], limit)).tolist() if a < b]
    assert near_pairs(small) == expected and (5, n - 3) in expected


def simulated(together: bool, count: int, rng: np.random.Generator) -> float:
    """How often a promise is wrong: 1 to 8 rows about each of 320 pictures, and one candidate that keeps just too
    little. All rows about a picture change, or none.
    """
    wrong = 0
    for _ in range(count):
        sizes = rng.integers(1, 9, 320)
        changed = rng.random(320) < 0.0201
        items = [
            Item(f"{p:03d}-{i}", "?", None, unit=f"{p:03d}" if together else "")
            for p, size in enumerate(sizes.tolist())
            for i in range(size)
        ]
        plan = make_plan(items, 160, 0.98, 0.95)

        def ask(name: str, chunk: int, plan=plan, changed=changed) -> np.ndarray:  # type: ignore[no-untyped-def]
            one = plan.chunks[chunk]
            return unit_losses(
                np.array([float(changed[int(item.id[:3])]) for item in one.items]), one.lengths
            )

        _, chosen = search({"x": ""}, ask, lambda name: 1.0, lambda: 2.0, plan.parts, 0.98, 0.95)
        wrong += chosen is not None
    return wrong / count


def test_the_promise_holds_for_rows_that_share_pictures() -> None:
    """And the simulation sees it: taken as independent, the same rows break the promise."""
    rng, count = np.random.default_rng(3), 150
    assert simulated(True, count, rng) <= 0.05 + 2.5 * (0.05 * 0.95 / count) ** 0.5
    assert simulated(False, 80, rng) > 0.1
