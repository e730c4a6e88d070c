"""The benchmarks of the vLLM plugin: their arithmetic, and how requests are timed, without vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import figures, presenting, traffic
from benchmarks.serving.store import Store
from sparsesight import SparseVLMPlus
from sparsesight.equal_cost import cost
from sparsesight.random_models import Shape

SHAPE = Shape.parse("layers=24,hidden=1024,ffn=2816,visual=576,text=24")


def test_the_limit_is_the_arithmetic_of_the_whole_request() -> None:
    method = SparseVLMPlus(64)
    dense, sparse = cost(None, SHAPE.decoder, SHAPE.prompt), cost(method, SHAPE.decoder, SHAPE.prompt)
    first, request = figures.limits(SHAPE, method, 3)
    assert first == pytest.approx(dense.macs / (sparse.macs - sparse.overhead))
    # A decoding step: every weight once, and every key of its layer twice.
    linear, width = SHAPE.decoder.layers[0].linear, 1024
    steps = sum(24 * linear + 2 * 24 * (600 + t + 1) * width for t in range(2))
    assert figures.request_macs(SHAPE, None, 3) == (dense.macs, dense.macs + steps)
    keys = sparse.kv_bytes // (4 * 2 * width)  # of all layers
    short = sum(24 * linear + 2 * (keys + 24 * (t + 1)) * width for t in range(2))
    assert request == pytest.approx((dense.macs + steps) / (sparse.macs - sparse.overhead + short))
    assert figures.limits(SHAPE, method, 1) == (first, first)


def run(turn: int, retain: int | None, first: list[float], wall: float, cpu: float) -> dict[str, Any]:
    return {
        "turn": turn,
        "requests": 2,
        "retain": retain,
        "first": first,
        "first_cpu": [2 * x for x in first],
        "wall": wall,
        "cpu": cpu,
        "tokens": 16,
    }


def test_ratios_are_taken_within_a_turn() -> None:
    runs = [
        run(0, None, [1.0, 3.0], 4.0, 8.0),
        run(0, 64, [0.25, 0.75], 1.0, 2.0),
        # The machine is half as fast in this turn, and faster in the next one, which vanilla has not finished.
        run(1, 64, [0.5, 1.5], 2.0, 4.0),
        run(1, None, [2.0, 6.0], 8.0, 16.0),
        run(2, 64, [0.1, 0.1], 0.2, 0.2),
    ]
    vanilla, sparse = figures.rows(runs, SHAPE, {64: SparseVLMPlus(64)})
    assert (vanilla["retain"], vanilla["turns"], vanilla["first_p50_s"]) == (None, 2, 3.0)
    assert vanilla["first_p50_ratio"] == vanilla["rate_ratio"] == vanilla["first_limit"] == 1
    assert (sparse["turns"], sparse["first_p50_s"], sparse["requests_per_s"]) == (3, 0.5, 2.0)
    assert sparse["tokens_per_s"] == 16.0 and sparse["cpu_s"] == 2.0
    for name in ("first_p50_ratio", "first_p99_ratio", "first_p50_cpu_ratio", "rate_ratio", "cpu_ratio"):
        assert sparse[name] == pytest.approx(4.0), name
    assert sparse["first_limit"] == pytest.approx(5.645, abs=1e-3) and 4 < sparse["rate_limit"] < 5.645
    page = presenting.throughput({"model": "m"}, [{"command": "c"}], [vanilla, sparse])
    assert (
        "| 2 | vanilla | 3.00 s |" in page and "| 2 | 64 | 0.50 s |" in page and "| 4.00x (4.00x) |" in page
    )
    assert "2 turns of 2 requests, 3 turns of 2 requests" in page
    assert all(f"\n{note}\n" in page for note in presenting.THROUGHPUT_NOTES)


def test_a_budget_without_vanilla_has_no_ratio() -> None:
    (row,) = figures.rows([run(0, 64, [1.0, 1.0], 1.0, 1.0)], SHAPE, {64: SparseVLMPlus(64)})
    assert row["first_p50_ratio"] is None and row["requests_per_s"] == 2.0
    assert "| 2 | 64 | 1.00 s | 1.00 s |  |  |" in presenting.throughput({}, [], [row])


def test_paired_steps_are_compared_step_by_step() -> None:
    vanilla = [1.0, 2.0, 4.0, 8.0] * 100
    found = figures.paired(vanilla, [1.01 * x for x in vanilla])
    assert found["ratio"] == pytest.approx(1.01) and found["sum_ratio"] == pytest.approx(1.01)
    assert found["steps"] == 400 and found["extra_us"] == pytest.approx(0.03e6)  # of 2 and 4 seconds
    noisy = [x * (1.0 + 0.02 * (i % 3)) for i, x in enumerate(vanilla)]
    noisy[7] = 1e6  # an interruption
    found = figures.paired(vanilla, noisy)
    assert found["low"] <= found["ratio"] == pytest.approx(1.02) and found["ratio"] <= found["high"]
    assert found["high"] < 1.05 and found["sum_ratio"] > 100
    few = figures.paired([1.0, 1.0, 1.0], [0.9, 1.0, 1.1])
    assert (few["low"], few["ratio"], few["high"]) == (0.9, 1.0, 1.1)


def test_idle_rows_are_of_each_state_what_was_timed_and_each_clock() -> None:
    def seconds(factor: float, step: float) -> dict[str, list[float]]:
        arrivals = [factor * x for x in (1e-4, 2e-4)]
        return {
            "wall": [step * factor] * 50,
            "cpu": [2 * step * factor] * 50,
            "added_wall": arrivals,
            "added_cpu": arrivals,
        }

    runs = [
        {"state": state, "turn": turn, "vanilla": seconds(1.0, step), "sparsesight": seconds(factor, step)}
        for state, factors in (("fresh", (1.0, 1.02)), ("used", (1.1, 1.3)))
        for turn, (factor, step) in enumerate(zip(factors, (1e-3, 4e-3), strict=True))
    ]
    rows = figures.idle(runs, ("fresh", "used"))
    assert [(r["state"], r["what"], r["clock"]) for r in rows] == [
        (state, what, clock)
        for state in ("fresh", "used")
        for what in ("step", "arrival")
        for clock in ("wall clock", "processor time")
    ]
    step = rows[4]
    assert (step["steps"], rows[6]["steps"]) == (100, 4)
    assert (step["lowest"], step["highest"]) == (pytest.approx(1.1), pytest.approx(1.3))
    assert rows[5]["vanilla_us"] == pytest.approx(2 * step["vanilla_us"]) == pytest.approx(5000)
    assert figures.idle(runs[:2], ("fresh", "used")) == rows[:4]  # a run that was stopped
    page = presenting.idle({"model": "m"}, [{"command": "c"}], rows)
    assert "| used | step | wall clock | 100 | 2500 us |" in page and "1.1000 to 1.3000" in page
    assert "With CUDA graphs of whole decoding steps" in page


class Engine:
    """Answers the oldest request first, one token in each step, and notes who is asked when."""

    def __init__(self, name: str, tokens: int, log: list[str]) -> None:
        self.name, self.tokens, self.log = name, tokens, log
        self.waiting: list[list[Any]] = []
        self.llm_engine = self

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        self.log.append(self.name.upper())
        self.waiting.append([name, 0])

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Any]:
        self.log.append(self.name)
        now = self.waiting[0]
        now[1] += 1
        finished = now[1] == self.tokens
        if finished:
            self.waiting.pop(0)
        answer = SimpleNamespace(token_ids=list(range(now[1])))
        return [SimpleNamespace(request_id=now[0], outputs=[answer], finished=finished)]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the wall clock comes a second after the one before, at the processor's two."""
    looks = {"wall": 0, "cpu": 0}

    def tick(clock: str, seconds: int) -> float:
        looks[clock] += seconds
        return float(looks[clock])

    monkeypatch.setattr(traffic.time, "perf_counter", lambda: tick("wall", 1))
    monkeypatch.setattr(traffic.time, "process_time", lambda: tick("cpu", 2))


@pytest.mark.usefixtures("ticking")
def test_a_burst_is_timed_to_each_first_token() -> None:
    found = traffic.burst(Engine("a", 3, []), ["x", "y"], None)
    assert found == traffic.Burst(first=(1.0, 4.0), first_cpu=(2.0, 8.0), wall=7.0, cpu=14.0, tokens=6)


def test_a_burst_that_is_not_answered_is_an_error() -> None:
    class Silent(Engine):
        def step(self) -> list[Any]:
            super().step()
            return []

    with pytest.raises(RuntimeError, match="of 2 requests 0"):
        traffic.burst(Silent("a", 1, []), ["x", "y"], None)


@pytest.mark.usefixtures("ticking")
def test_engines_take_turns_in_changing_order() -> None:
    log: list[str] = []
    clocks = traffic.in_step([Engine("a", 2, log), Engine("b", 2, log)], ["x", "y"], None)
    assert "".join(log) == "BAAB" + "baabbaab"  # arrivals, then steps
    assert [(c.wall, c.cpu) for c in clocks] == [([1.0] * 4, [2.0] * 4)] * 2
    assert [(c.added_wall, c.added_cpu) for c in clocks] == [([1.0] * 2, [2.0] * 2)] * 2


def test_engines_that_fall_out_of_step_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="different numbers of steps"):
        traffic.in_step([Engine("a", 2, []), Engine("b", 3, [])], ["x"], None)


def test_the_store_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "throughput.json"
    store = Store(path, {"model": "m"})
    store.made_with({"date": "today"})
    store.made_with({"date": "today"})
    store.keep(run(0, None, [0.5], 1.0, 2.0))
    store.keep(run(0, 64, [0.1], 0.2, 0.3))
    again = Store(path, {"model": "m"})
    assert again.runs == store.runs and again.data == json.loads(path.read_text())
    assert again.data["made_with"] == [{"date": "today"}]
    assert again.has(turn=0, requests=2, retain=None) and not again.has(turn=1, requests=2, retain=None)
    with pytest.raises(SystemExit, match="another --out"):
        Store(path, {"model": "other"})
    assert [x.name for x in path.parent.iterdir()] == ["throughput.json"]
