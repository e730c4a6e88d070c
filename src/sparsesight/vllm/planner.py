"""What is pruned of a request, decided on the host from its token ids and sizes alone.

Front end, scheduler and worker all go by :class:`Planner`, and so agree without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.budget import Schedule
from ..core.facts import BEFORE_PICTURE
from ..core.regions import assign
from ..core.turns import Turns
from ..core.whole_blocks import in_whole_blocks
from ..errors import BudgetError, SparseSightError
from ..hf.prompt.frames import FrameRule
from ..methods import Method
from .config import RequestBudget, asked_of
from .layout import Region

Flags = NDArray[np.bool_]
Numbers = NDArray[np.integer[Any]]


def no_rows() -> Any:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True)
class RequestPlan:
    """What is pruned of a request.

    Attributes:
        method: None if every token is kept.
        regions: what is pruned, in the order of the prompt.
        visual: which tokens of the prompt are visual tokens of these regions, boolean [prompt].
        text: which tokens judge them, boolean [prompt].
        number: the region of each of both, -1 elsewhere, int64 [prompt].
        video: which tokens of the prompt are of clips, boolean [prompt].
        lifted: why the server's average is kept after every pruning layer instead.
        unmet: why the prompt is kept, as it cannot meet its budget.
        refused: why it is kept, as what it asks for cannot be.
        too_long: number of regions that are kept, as they are longer than a step.
        rounded: number of regions that are kept, as what they have too much fills no block.
    """

    method: Method | None = None
    regions: tuple[Region, ...] = ()
    visual: Flags = field(default_factory=no_rows, repr=False)
    text: Flags = field(default_factory=no_rows, repr=False)
    number: Numbers = field(default_factory=no_rows, repr=False)
    video: Flags = field(default_factory=no_rows, repr=False)
    lifted: str = ""
    unmet: str = ""
    refused: str = ""
    too_long: int = 0
    rounded: int = 0


NOTHING = RequestPlan()


@dataclass(frozen=True)
class Choice:
    """What is kept of visual tokens that are judged together."""

    schedule: Schedule | None  # None: everything
    lifted: str = ""  # why this is not the server's average but as many tokens after every pruning layer


@dataclass(frozen=True)
class Planner:
    """What a server prunes by.

    Attributes:
        method: of the server.
        stages: its pruning layers.
        num_layers: of the decoder.
        turns: how the served model's chats mark their turns, if that is known.
        block_size: tokens of a block of the KV cache.
        longest: tokens of the longest step; a longer region is kept.
        frames: how clips of the served model are divided into frames.
    """

    method: Method
    stages: tuple[int, ...]
    num_layers: int
    turns: Turns | None = None
    block_size: int = 1
    longest: int = 2**31
    frames: FrameRule = field(default_factory=FrameRule)

    def request_plan(self, places: Iterable[Any], ids: Any, length: int, extra_args: Any) -> RequestPlan:
        """What is pruned of a request, whatever is wrong with it: then nothing is, and the plan says why.

        Args:
            places: vLLM's ``PlaceholderRange`` of each picture.
            ids: token ids of the prompt; None if they are not known.
            length: of the prompt.
            extra_args: of the request's sampling parameters.
        """
        visual = visual_mask(places, length)
        if not visual.any():
            return NOTHING
        try:
            asked = asked_of(self.method, self.stages, extra_args)
        except SparseSightError as error:
            return RequestPlan(refused=str(error))
        try:
            return self.plan(asked, visual, None if ids is None else np.asarray(ids, np.int64))
        except BudgetError as error:
            return RequestPlan(unmet=str(error))

    def plan(self, asked: RequestBudget, visual: Flags, ids: Numbers | None) -> RequestPlan:
        """What is pruned of a prompt, by its tokens alone: every turn has its own budget.

        Args:
            asked: what the request wants.
            visual: which of the prompt's tokens are visual.
            ids: of the prompt's tokens, if they are known.

        Raises:
            BudgetError: as :func:`schedule_of`, for any of the turns; everything is kept then.
        """
        if asked.method is None:
            return NOTHING
        # Front end, scheduler and worker ask the same; those that share a process work it out once.
        return _planned(self, asked, visual.tobytes(), None if ids is None else ids.tobytes())

    def _plan(self, asked: RequestBudget, visual: Flags, ids: Numbers | None) -> RequestPlan:
        method = asked.method
        assert method is not None
        text, number, in_front = self._regions(method, visual, ids)
        regions: list[Region] = []
        lifted, too_long, rounded = "", 0, 0
        of_region = np.full(len(visual), -1, np.int64)
        for i, before in enumerate(in_front):
            rows, judges = np.flatnonzero(visual & (number == i)), np.flatnonzero(text & (number == i))
            choice = schedule_of(asked, len(rows), len(judges), self.num_layers, self.stages)
            if choice.schedule is None:
                continue
            own = rows if not len(judges) else np.concatenate((rows, judges))
            schedule = in_whole_blocks(choice.schedule, self.block_size, method.recycled_fraction)
            removed = tuple(schedule.visual - stage.tokens_out for stage in schedule.stages)
            if not fills_a_block(removed):
                rounded += choice.schedule.stages[-1].tokens_out < len(rows)
                continue
            begin, end = int(own.min()), int(own.max()) + 1
            if end - begin > self.longest:
                too_long += 1
                continue
            digest = blake2b(
                json.dumps([method.to_dict(), self.stages, removed, before]).encode(), digest_size=16
            )
            for part in (ids, visual, text):
                digest.update(b"" if part is None else np.ascontiguousarray(part[begin:end]).tobytes())
            of_region[own] = len(regions)
            regions.append(
                Region(
                    first=int(rows[0]),
                    stop=int(rows[-1]) + 1,
                    begin=begin,
                    end=end,
                    schedule=schedule,
                    removed=removed,
                    in_front=before,
                    text=len(judges),
                    digest=digest.hexdigest(),
                )
            )
            lifted = lifted or choice.lifted
        pruned = of_region >= 0
        return RequestPlan(
            method if regions else None,
            tuple(regions),
            visual & pruned,
            text & pruned,
            of_region,
            self._video(ids, len(visual)),
            lifted,
            too_long=too_long,
            rounded=rounded,
        )

    def _video(self, ids: Numbers | None, length: int) -> Flags:
        """Which tokens of a prompt are of clips."""
        of_clips = self.frames.video_ids
        return np.zeros(length, np.bool_) if ids is None or not of_clips else np.isin(ids, of_clips)

    def _regions(
        self, method: Method, visual: Flags, ids: Numbers | None
    ) -> tuple[Flags, Numbers, list[bool]]:
        """The tokens that judge, the region of every token, and of each region whether its text comes in front."""
        if self.turns is None or ids is None or method.judged_by == "prompt":
            text = np.arange(len(visual)) >= len(visual) - int(visual[::-1].argmax())
            return text, np.zeros(len(visual), np.int64), [False]
        is_visual = torch.from_numpy(visual.copy())[None]
        marks = self.turns.marks(torch.from_numpy(np.array(ids, np.int64))[None])
        found = assign(is_visual, ~is_visual, marks)
        number = np.zeros(len(visual), np.int64) if found.number is None else found.number[0].numpy()
        where = [facts[0] is not None and facts[0].where == BEFORE_PICTURE for facts in found.facts]
        return found.text[0].numpy(), number, where


def fills_a_block(removed: tuple[int, ...]) -> bool:
    """Whether any stage removes tokens of a region. Otherwise its blocks are those of a prompt that nobody prunes."""
    return any(removed)


@lru_cache(maxsize=16)
def _planned(planner: Planner, asked: RequestBudget, visual: bytes, ids: bytes | None) -> RequestPlan:
    """:meth:`Planner.plan`, of what stands in memory. Nobody writes into a plan."""
    tokens = None if ids is None else np.frombuffer(ids, np.int64)
    return planner._plan(asked, np.frombuffer(visual, np.bool_), tokens)


def visual_mask(places: Iterable[Any], length: int) -> Flags:
    """Which of a prompt's tokens are visual, from vLLM's ``PlaceholderRange`` of each picture."""
    mask = np.zeros(length, np.bool_)
    for place in places:
        for first, last in place.extract_embeds_range():
            mask[first : last + 1] = True
    return mask


def schedule_of(
    asked: RequestBudget, visual: int, text: int, num_layers: int, stages: tuple[int, ...]
) -> Choice:
    """What is kept of visual tokens that are judged together.

    It may depend on nothing else, see :class:`Planner`. A request that names no budget is not to blame for a server's
    average that pictures of its size cannot meet, as the layers before the first pruning layer hold all of them: it
    keeps that many tokens after every pruning layer.

    Args:
        asked: what the request wants.
        visual: visual tokens.
        text: tokens that judge them.
        num_layers: of the decoder.
        stages: pruning layers.

    Raises:
        BudgetError: the prompt cannot meet the budget that the request names, or the server's where that is not one
            number; everything is kept then.
    """
    method, lifted = asked.method, ""
    if method is None or not visual or text <= 0:
        return Choice(None)
    try:
        schedule = method.plan(visual, num_layers, stages)
    except BudgetError as error:
        if asked.named or not method.one_budget:
            raise
        retain = method.retain
        assert not isinstance(retain, tuple)  # counts are always met
        keep = retain if isinstance(retain, Integral) else max(int(retain * visual), 1)
        lifted = str(error)
        schedule = replace(method, retain=(int(keep),) * len(stages), layers=stages).plan(
            visual, num_layers, stages
        )
    return Choice(schedule, lifted) if schedule.stages else Choice(None)
