"""Sections are counted by the clock that was asked for, and only while somebody asks."""

from __future__ import annotations

import time

import torch

from sparsesight.hf.clock import Clock


def test_sections_count_the_wall_clock_or_the_processor() -> None:
    clock = Clock(torch.device("cpu"))
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
