"""Sections are counted by the clock that was asked for, and only while somebody asks."""

from __future__ import annotations

import time

import torch

from sparsesight.profiling.sections import SectionTimer


def test_sections_count_the_wall_clock_or_the_processor() -> None:
    clock = SectionTimer(torch.device("cpu"))
    with clock("before"):
        pass
    found = {}
    for processor in (False, True):
        clock.sections, clock.processor = {}, processor
        for _ in range(2):
            with clock("sleep"):
                time.sleep(0.02)
        assert clock.sections.keys() == {"sleep"}
        found[processor] = clock.sections["sleep"]
    assert found[False] >= 0.04 > found[True]


def test_a_section_within_another_counts_once() -> None:
    clock = SectionTimer(torch.device("cpu"))
    clock.sections = found = {}
    start = time.perf_counter()
    with clock("outer"):
        time.sleep(0.01)
        with clock("inner"):
            assert clock.open == ["outer", "inner"]
            time.sleep(0.03)
            with clock("outer"):
                time.sleep(0.01)
    whole = time.perf_counter() - start
    assert not clock.open
    assert 0.03 <= found["inner"] < found["inner"] + found["outer"] <= whole
    assert found["outer"] >= 0.02
