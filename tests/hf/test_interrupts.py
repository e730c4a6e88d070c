"""An interrupt at any line of installing or undoing leaves a model that can be restored; so does a lost handle."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import sparsesight
from sparsesight import Compose, FasterVLM, SparseSightError, SparseVLMPlus, restore, sparsify
from tests.hf import tiny
from tests.hf.snapshot import Snapshot
from tests.hf.test_invariants import batch
from tests.hf.threads import wrong_in_threads

# Where lines count: ours, and what they call to register and to take back.
FILES = (
    *(f"sparsesight/hf/{name}.py" for name in ("hooks", "install", "probe", "sparsify", "restore")),
    "sparsesight/hf/vision/reader.py",
    "sparsesight/hf/compiled/dispatch.py",
    "torch/utils/hooks.py",
)
CALLS = ("register_forward_hook", "register_forward_pre_hook", "register")  # anywhere


@contextmanager
def lines(seen: Callable[[tuple[str, int]], None]) -> Iterator[None]:
    """Call ``seen`` before every line of those, which may raise."""

    def enter(frame: Any, event: str, arg: Any) -> Any:
        code = frame.f_code
        return line if code.co_filename.endswith(FILES) or code.co_name in CALLS else None

    def line(frame: Any, event: str, arg: Any) -> Any:
        if event == "line":
            seen((frame.f_code.co_filename, frame.f_lineno))
        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


class At:
    """Raises at the ``point``-th line."""

    def __init__(self, point: int) -> None:
        self.left = point

    def __call__(self, place: tuple[str, int]) -> None:
        self.left -= 1
        if self.left == -1:
            raise KeyboardInterrupt


def install(built: Any) -> Any:
    """Hooks, probes in tower and decoder, the fast path: everything that is put on a model."""
    method = Compose(FasterVLM(0.7), SparseVLMPlus(0.4, (0,)))
    return sparsify(built, method, fast="plain")


def points(places: list[tuple[str, int]], every: bool) -> list[int]:
    """Numbers of lines to try: of each line the first time; or all."""
    if every:
        return list(range(len(places)))
    return sorted({place: i for i, place in reversed([*enumerate(places)])}.values())


def check(every: bool) -> None:
    built = tiny.model("llava", num_hidden_layers=3)
    places: dict[str, list[tuple[str, int]]] = {"install": [], "undo": []}
    install(built).restore()  # what is imported and made once
    before = Snapshot(built)
    with lines(places["install"].append):
        handle = install(built)
    with lines(places["undo"].append):
        handle.restore()
    assert min(map(len, places.values())) > 300 and Snapshot(built) == before
    lost: Counter[str] = Counter()
    for point in points(places["install"], every):
        with pytest.raises(KeyboardInterrupt), lines(At(point)):
            install(built)
        restore(built)
        lost["install"] += Snapshot(built) != before
    for number, point in enumerate(points(places["undo"], every)):
        handle = install(built)
        with pytest.raises(KeyboardInterrupt), lines(At(point)):
            handle.restore()
        if number % 2:
            restore(built)
        else:
            handle.restore()
        lost["undo"] += Snapshot(built) != before
    assert not +lost, lost


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_at_a_line_of_installing_or_undoing() -> None:
    check(every=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_at_every_line_of_installing_or_undoing() -> None:
    check(every=True)


def test_two_interrupts_in_a_row() -> None:
    """The second one comes while the first is cleaned up after."""
    built = tiny.model("llava", num_hidden_layers=3)
    before = Snapshot(built)
    for first, second in ((200, 20), (300, 90), (400, 7)):
        left = [first, second]

        def seen(place: tuple[str, int], left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0 and left[1:]:
                left.pop(0)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), lines(seen):
            install(built)
        assert len(left) == 1
        with pytest.raises(KeyboardInterrupt), lines(At(30)):
            restore(built)
        restore(built)
        assert Snapshot(built).differences(before) == []


# -- a lost handle ------------------------------------------------------------------------------------------------


def test_a_dropped_handle_says_so_and_the_model_can_be_restored() -> None:
    """Hooks on the model do not keep the handle: it goes as soon as nobody has it, without a collection."""
    built, prompt = tiny.model("llava", num_hidden_layers=3), batch("llava", (0,))
    with torch.no_grad():
        dense = built(**prompt).logits
    handle = sparsify(built, "sparsevlm+", retain=0.6, layers=(0, 1))
    with torch.no_grad():
        sparse = built(**prompt).logits
    gone = weakref.ref(handle)
    gc.disable()
    try:
        with pytest.warns(
            ResourceWarning, match=r"LlavaForConditionalGeneration .* sparsesight.restore\(model\)"
        ):
            del handle
        assert gone() is None
    finally:
        gc.enable()
    with torch.no_grad():
        assert torch.equal(built(**prompt).logits, sparse)  # it goes on
    with pytest.raises(SparseSightError, match=r"already sparsified.*sparsesight.restore\(model\)"):
        sparsify(built, "sparsevlm+", retain=0.6, layers=(0, 1))
    restore(built)
    restore(built)  # harmless
    with torch.no_grad():
        assert torch.equal(built(**prompt).logits, dense)


def test_a_restored_handle_says_nothing() -> None:
    built = tiny.model("llava", num_hidden_layers=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sparsify(built, "sparsevlm+", retain=0.6, layers=(0,)):
            pass
        sparsify(built, "sparsevlm+", retain=0.6, layers=(0,)).restore()
        with pytest.raises(SparseSightError):
            sparsify(built, "sparsevlm+", retain=0.6, layers=(7,))
        handle = sparsify(built, "sparsevlm+", retain=0.6, layers=(0,))
        sparsesight.restore(built)
        handle.restore()
        del handle


def test_restore_through_what_contains_the_decoder() -> None:
    built = tiny.model("llava", num_hidden_layers=3)
    wrappers = torch.nn.ModuleDict({"module": built}), torch.compile(built, backend="eager")
    before = Snapshot(built)
    for given in (built, built.model, built.get_decoder(), *wrappers):
        handle = sparsify(built, "sparsevlm+", retain=0.6, layers=(0,))
        restore(given)
        assert Snapshot(built).differences(before) == []
        handle.restore()
    restore(torch.nn.Linear(2, 2))
    with pytest.raises(SparseSightError, match="restore: got str"):
        restore("model")  # type: ignore[arg-type]


def test_an_old_handle_does_not_take_a_new_one_away() -> None:
    built = tiny.model("llava", num_hidden_layers=3)
    old = sparsify(built, "sparsevlm+", retain=0.6, layers=(0,))
    restore(built)
    with sparsify(built, "sparsevlm+", retain=0.6, layers=(1,)):
        during = Snapshot(built)
        old.restore()
        assert Snapshot(built) == during


# -- what is one for the whole process ----------------------------------------------------------------------------


def registered(before: Snapshot, built: Any) -> bool:
    """Whether anything is registered otherwise than before. (The first run of a class leaves things on it.)"""
    return "attention functions" in Snapshot(built).differences(before)


def test_names_in_the_registry_go_with_their_handles() -> None:
    """Also those that came with an attention implementation that was set meanwhile."""
    a, b = (tiny.model("llava", num_hidden_layers=3) for _ in range(2))
    before = Snapshot(a)
    first, second = (sparsify(x, "sparsevlm+", retain=0.6, layers=(0, 1)) for x in (a, b))
    during = len(Snapshot(a).found["attention functions"])
    assert during > len(before.found["attention functions"])
    first.restore()
    assert during > len(Snapshot(a).found["attention functions"]) > len(before.found["attention functions"])
    b.set_attn_implementation("eager")
    b(**batch("llava", (0,)))
    second.restore()
    assert not registered(before, a)


def test_threads_that_install_and_restore_models_of_their_own() -> None:
    models = [tiny.model("llava", num_hidden_layers=3) for _ in range(3)]
    prompt, before = batch("llava", (0,)), Snapshot(models[0])

    def works(i: int) -> bool:
        with sparsify(models[i], "sparsevlm+", retain=0.6, layers=(0, 1)) as run, torch.no_grad():
            models[i](**prompt)
        return bool(run.kept)

    assert not wrong_in_threads(range(3), works, 3, 1e-5)
    assert not registered(before, models[0])
