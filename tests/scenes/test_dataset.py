"""The splits: their sizes, their balance, and that they are the same for everyone."""

from collections import Counter
from itertools import combinations

import pytest
from PIL import Image

from sparsesight import SparseSightError
from sparsesight.scenes import dataset
from sparsesight.scenes.dataset import CLUTTER, SMALL, SPLITS, Example, examples
from sparsesight.scenes.drawing import Rng
from sparsesight.scenes.objects import Recipe, arrange, owners
from sparsesight.scenes.questions import KINDS, SINGLE_OBJECT
from sparsesight.scenes.scenes import Scene, questions, render

EVALUATION = ("val", "test", "test-b", "test-c", "test-d", "occluded", "clutter")


def unpainted(seed: int, recipe: Recipe) -> Scene:
    """What `render` gives, but for the picture, which takes most of the time."""
    objects = arrange(Rng(seed), recipe)
    return Scene(seed, objects, Image.new("RGB", (1, 1)), owners(objects))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "render", unpainted)
        return {name: list(examples(name)) for name in EVALUATION}


def test_the_splits_are_these() -> None:
    sizes = {name: split.scenes for name, split in SPLITS.items()}
    assert sizes == dict(
        zip(("train", *EVALUATION), (100_000, 120, 240, 240, 240, 240, 120, 120), strict=True)
    )
    assert all(split.name == name and split.about for name, split in SPLITS.items())
    assert SPLITS["occluded"].recipe == SMALL and SPLITS["clutter"].recipe == CLUTTER
    assert all(
        SPLITS[name].recipe == Recipe() for name in ("train", "val", "test", "test-b", "test-c", "test-d")
    )


def test_no_two_splits_share_a_seed() -> None:
    for one, other in combinations(SPLITS.values(), 2):
        first, second = sorted((one, other), key=lambda split: split.first_seed)
        assert first.first_seed + first.scenes <= second.first_seed, (one.name, other.name)
    assert all(split.first_seed + split.scenes <= 2**32 for split in SPLITS.values())


def test_examples_are_scenes_of_consecutive_seeds_with_an_id_each(splits: dict[str, list[Example]]) -> None:
    everything = [example for found in splits.values() for example in found]
    assert len({example.id for example in everything}) == len(everything)
    for name, found in splits.items():
        first = SPLITS[name].first_seed
        assert [*dict.fromkeys(one.scene.seed for one in found)] == [
            *range(first, first + SPLITS[name].scenes)
        ]
        for example in found:
            split, scene, _ = example.id.split("/")
            assert (split, int(scene)) == (name, example.scene.seed - first)


@pytest.mark.parametrize(
    ("split", "least"), [("test", 2000), ("test-b", 2000), ("test-c", 2000), ("test-d", 2000), ("val", 1000)]
)
def test_a_split_has_enough_questions(split: str, least: int, splits: dict[str, list[Example]]) -> None:
    assert len(splits[split]) >= least


@pytest.mark.parametrize("split", EVALUATION)
def test_every_scene_is_asked_one_question_of_a_kind(split: str, splits: dict[str, list[Example]]) -> None:
    kinds = Counter((example.scene.seed, example.question.kind) for example in splits[split])
    assert max(kinds.values()) == 1
    per_kind = Counter(kind for _, kind in kinds)
    assert set(per_kind) == set(KINDS)
    assert min(per_kind.values()) >= 0.8 * SPLITS[split].scenes, per_kind


@pytest.mark.parametrize("split", EVALUATION)
def test_questions_are_those_of_their_scene(split: str, splits: dict[str, list[Example]]) -> None:
    for example in splits[split][:180]:
        ask = KINDS[example.question.kind][1]
        assert example.question in [question for _, question in ask(example.scene.objects)]


@pytest.mark.parametrize("split", EVALUATION)
def test_sizes_are_balanced_within_each_kind(split: str, splits: dict[str, list[Example]]) -> None:
    for kind in KINDS:
        sizes = Counter(one.size for one in splits[split] if one.question.kind == kind)
        assert set(sizes) <= {"small", "large", "none"}
        assert 0.4 <= sizes["small"] / (sizes["small"] + sizes["large"]) <= 0.6, (kind, sizes)
        assert (sizes["none"] > 0) == (kind in ("exist", "count"))
        if kind in SINGLE_OBJECT:
            assert sizes.total() == sizes["small"] + sizes["large"]


def test_the_size_is_that_of_the_object_in_question(splits: dict[str, list[Example]]) -> None:
    for example in splits["test"]:
        shown_by = example.question.objects
        assert example.size == (example.scene.objects[shown_by[0]].size if shown_by else "none")
        if example.question.kind == "size":
            assert example.size == example.question.answer


@pytest.mark.parametrize("split", EVALUATION)
def test_answering_without_the_picture_does_not_pay(split: str, splits: dict[str, list[Example]]) -> None:
    most = {"size": 0.55, "exist": 0.65, "compare": 0.65, "where": 0.4, "count": 0.35, "shape": 0.35}
    for kind in KINDS:
        answers = Counter(one.question.answer for one in splits[split] if one.question.kind == kind)
        assert max(answers.values()) <= most.get(kind, 0.25) * answers.total(), (kind, answers)


def test_training_scenes_have_64_questions_in_the_proportions_of_training() -> None:
    found = list(examples("train", scenes=2))
    assert [example.scene.seed for example in found] == [2_000_000] * 64 + [2_000_001] * 64
    assert [example.question for example in found[:64]] == questions(render(2_000_000), 64)
    assert len({example.id for example in found}) == 128


def test_examples_carry_the_picture_of_their_scene() -> None:
    for name, recipe in (("test", Recipe()), ("occluded", SMALL), ("clutter", CLUTTER)):
        example = next(examples(name))
        scene = render(SPLITS[name].first_seed, recipe)
        assert example.image is example.scene.image
        assert example.image.tobytes() == scene.image.tobytes()
        assert example.scene.objects == scene.objects


def everything(example: Example) -> tuple[object, ...]:
    return (example.id, example.question, example.size, example.scene.objects, example.image.tobytes())


def test_workers_change_nothing() -> None:
    # More scenes than one worker is handed at a time
    alone, shared = ([everything(one) for one in examples("val", 18, workers)] for workers in (1, 2))
    assert alone == shared


def test_nothing_is_rendered_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def watch(seed: int, recipe: Recipe) -> Scene:
        rendered.append(seed)
        return unpainted(seed, recipe)

    monkeypatch.setattr(dataset, "render", watch)
    found = examples("train")
    assert rendered == []
    next(found)
    assert rendered == [2_000_000]
    assert list(examples("test", scenes=0)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "split='tset' .*train, val, test, test-b, test-c, test-d, occluded, clutter"),
        ({"split": "val", "scenes": 121}, "scenes=121 .*120"),
        ({"split": "val", "scenes": -1}, "scenes=-1 "),
        ({"split": "val", "workers": 0}, "workers=0 "),
    ],
)
def test_what_is_impossible_is_refused_at_the_call(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SparseSightError, match=message):
        examples(**arguments)  # type: ignore[arg-type] # not even asked for the first example
