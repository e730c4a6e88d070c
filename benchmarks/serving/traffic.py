"""Runs requests through engines in this process, and times them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Burst:
    """Requests that arrive at once.

    Attributes:
        first: seconds from the arrival to the first token, one for each request.
        first_cpu: the same in processor seconds of the process, all threads.
        wall: seconds until the last request was answered.
        cpu: processor seconds of the process until then, all threads.
        tokens: output tokens of all requests.
    """

    first: tuple[float, ...]
    first_cpu: tuple[float, ...]
    wall: float
    cpu: float
    tokens: int


def burst(llm: Any, prompts: Sequence[Any], params: Any) -> Burst:
    """Send ``prompts`` to an engine at once, and wait for every answer.

    What vLLM's front end takes for words and pictures counts, as a user waits for it too.
    """
    engine = llm.llm_engine
    first: dict[str, tuple[float, float]] = {}
    tokens = 0
    start, cpu = time.perf_counter(), time.process_time()
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), prompt, params)
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter() - start, time.process_time() - cpu
        for output in outputs:
            made = len(output.outputs[0].token_ids)
            if made:
                first.setdefault(output.request_id, now)
            if output.finished:
                tokens += made
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    if len(first) != len(prompts):
        raise RuntimeError(f"of {len(prompts)} requests {len(first)} were answered")
    walls, cpus = zip(*first.values(), strict=True)
    return Burst(walls, cpus, wall, cpu, tokens)


@dataclass(frozen=True)
class Clocks:
    """Seconds by the wall clock and of the processor, for each step of an engine, and for each request's arrival.

    Attributes:
        wall, cpu: of the steps.
        added_wall, added_cpu: of ``add_request``, in which vLLM's front end and the plugin look at a request.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    added_wall: list[float] = field(default_factory=list)
    added_cpu: list[float] = field(default_factory=list)


def in_step(engines: Sequence[Any], prompts: Sequence[Any], params: Any) -> list[Clocks]:
    """Let engines answer the same requests, one arrival or step of each by turns; the turns change their order.

    Whatever slows the machine down for longer than a step slows all of them down.
    """
    clocks = [Clocks() for _ in engines]
    forward = range(len(engines))
    for i, prompt in enumerate(prompts):
        for e in forward if i % 2 else reversed(forward):
            wall, cpu = time.perf_counter(), time.process_time()
            engines[e].llm_engine.add_request(str(i), prompt, params)
            clocks[e].added_cpu.append(time.process_time() - cpu)
            clocks[e].added_wall.append(time.perf_counter() - wall)
    turn = 0
    while any(busy := [llm.llm_engine.has_unfinished_requests() for llm in engines]):
        if not all(busy):
            raise RuntimeError(
                f"engines took different numbers of steps for the same requests: {busy} goes on"
            )
        for e in forward if turn % 2 else reversed(forward):
            wall, cpu = time.perf_counter(), time.process_time()
            engines[e].llm_engine.step()
            clocks[e].cpu.append(time.process_time() - cpu)
            clocks[e].wall.append(time.perf_counter() - wall)
        turn += 1
    return clocks
