"""Schedules for caches that hold keys in blocks: a stage removes whole blocks of a region's visual tokens."""

from __future__ import annotations

from dataclasses import replace

from .budget import Schedule, Stage, recycled_counts


def in_whole_blocks(schedule: Schedule, size: int, recycle: float) -> Schedule:
    """The schedule with every stage's removed visual tokens rounded down to a multiple of ``size``.

    A stage keeps fewer than ``size`` tokens more than asked for. It keeps at least ``size - 1``, as a region can begin
    anywhere within a block, which its first tokens have to fill.

    Args:
        schedule: for the visual tokens of one region.
        size: tokens of a block.
        recycle: fraction of the dropped tokens that is merged, of stages that merge any.
    """
    tokens, stages = schedule.visual, []
    for stage in schedule.stages:
        least = min(max(stage.tokens_out, size - 1), tokens)
        out = min(least + (tokens - least) % size, tokens)
        stages.append(_stage(stage, tokens, out, recycle))
        tokens = out
    return replace(schedule, stages=tuple(stages))


def _stage(asked: Stage, tokens: int, out: int, recycle: float) -> Stage:
    """A stage that gets ``tokens`` and leaves ``out``, with merged tokens as the one that was asked for has them."""
    if not asked.merged or out == tokens:
        return Stage(asked.layer, tokens, out)
    if not asked.keep:  # all are merged
        return Stage(asked.layer, tokens, 0, tokens, out)
    if recycled_counts(asked.tokens_in - asked.keep, recycle) == (asked.recycled, asked.merged):
        for keep in range(
            out, -1, -1
        ):  # one more kept token is at most one merged token fewer: one of these fits
            recycled, merged = recycled_counts(tokens - keep, recycle)
            if keep + merged <= out:
                return Stage(asked.layer, tokens, keep, recycled, merged)
    merged = round(out * asked.merged / asked.tokens_out)  # a share of what is left
    return Stage(asked.layer, tokens, out - merged, tokens - out + merged, merged)
