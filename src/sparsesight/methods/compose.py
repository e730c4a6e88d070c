"""Chains several methods, such as one before the language model and one inside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from ..core.budget import Retain, Schedule, Stage, StageSizes
from ..core.method import Method
from ..core.stage import Selection, StageInput
from ..errors import BudgetError, SparseSightError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, init=False)
class Compose(Method):
    """``Compose(VisionZip(retain=192), SparseVLMPlus(retain=64))``: the stages of its parts, in order.

    A part's ``retain`` applies to the visual tokens that the previous part kept: a number is their average over the
    layers of the decoder, a ratio is a fraction of them. Raters are selected once, from the input of the first layer,
    by the first part that uses raters.

    Attributes:
        parts: methods whose stages follow one another.

    Raises:
        SparseSightError: fewer than two parts, parts whose counts depend on the data, parts with different
            ``positions``.
    """

    parts: tuple[Method, ...] = ()

    name: ClassVar[str] = "compose"
    requires_attention: ClassVar[bool] = False  # each part checks its own layers

    def __init__(self, *parts: Method) -> None:
        for part in parts:
            if not isinstance(part, Method) or isinstance(part, Compose):
                raise SparseSightError(f"Compose: {part!r} is not a single method")
            if part.data_dependent:
                raise SparseSightError(
                    f"Compose: {part} derives its counts from the data, so later parts cannot plan"
                )
        if len(parts) < 2:
            raise SparseSightError(f"Compose: give two methods or more, not {len(parts)}")
        if len({part.positions for part in parts}) > 1:
            raise SparseSightError("Compose: its parts need the same positions='original' or 'compact'")
        given: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Method)}
        given |= {
            "retain": 1.0,
            "positions": parts[0].positions,
            "per_frame": any(part.per_frame for part in parts),
            "judged_by": "prompt" if any(part.judged_by == "prompt" for part in parts) else "turn",
            "parts": parts,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def requires_raters(self) -> bool:  # type: ignore[override]
        return any(part.requires_raters for part in self.parts)

    @property
    def requires_vision(self) -> bool:  # type: ignore[override]
        return any(part.requires_vision for part in self.parts)

    @property
    def requires_text_tower(self) -> bool:  # type: ignore[override]
        return any(part.requires_text_tower for part in self.parts)

    @property
    def requires_frames(self) -> bool:  # type: ignore[override]
        return any(part.requires_frames for part in self.parts)

    def rows_read_at(self, index: int) -> Literal["text", "raters"]:
        part, index = self._part(index)
        return part.rows_read_at(index)

    def requires_attention_at(self, index: int) -> bool:
        part, index = self._part(index)
        return part.requires_attention_at(index)

    @property
    def one_budget(self) -> bool:
        return False

    @property
    def recycled_fraction(self) -> float:
        return max(part.recycled_fraction for part in self.parts)

    def stage_layers(self, num_layers: int, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
        layers = [part.stage_layers(num_layers, allowed) for part in self.parts]
        flat = tuple(x for part in layers for x in part)
        if any(a >= b for a, b in pairwise(flat)):
            raise BudgetError(
                f"Compose: the stages of its parts come after layers {layers}, which are not "
                "ascending; give layers=(...)"
            )
        return flat

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        stages: list[Stage] = []
        tokens, at, some = visual, 0, False
        for part, own in zip(self.parts, map(_stages_of, self.parts), strict=True):
            of_part, at = layers[at : at + own], at + own
            planned = part.plan(tokens, num_layers, of_part).stages
            some = some or bool(planned)
            # A part that keeps all tokens still has stages if other parts prune.
            stages += planned or [Stage(layer, tokens, tokens) for layer in of_part]
            tokens = stages[-1].tokens_out
        return Schedule(visual, num_layers, tuple(stages) if some else ())

    def _part(self, index: int) -> tuple[Method, int]:
        """The part that stage ``index`` belongs to, and its number there."""
        for part in self.parts:
            own = _stages_of(part)
            if index < own:
                return part, index
            index -= own
        raise AssertionError("no such stage")

    def select_raters(
        self,
        visual: Float[Tensor, "b v c"],
        text: Float[Tensor, "b t c"],
        visual_mask: Bool[Tensor, "b v"],
        text_mask: Bool[Tensor, "b t"],
    ) -> Bool[Tensor, "b t"]:
        first = next(part for part in self.parts if part.requires_raters)
        return first.select_raters(visual, text, visual_mask, text_mask)

    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        part, index = self._part(stage.index)
        return part.score(dataclasses.replace(stage, index=index))

    def select_from_scores(self, stage: StageInput, score: Float[Tensor, "b v"]) -> Selection:
        part, index = self._part(stage.index)
        return part.select_from_scores(dataclasses.replace(stage, index=index), score)

    @property
    def weights_keys(self) -> bool:
        return any(part.weights_keys for part in self.parts)

    def multiplicity(self, stage: StageInput, selection: Selection) -> Float[Tensor, "b v"] | None:
        part, index = self._part(stage.index)
        return part.multiplicity(dataclasses.replace(stage, index=index), selection)

    def overhead(self, sizes: StageSizes) -> int:
        part, index = self._part(sizes.index)
        return part.overhead(dataclasses.replace(sizes, index=index))

    def with_budget(self, retain: Retain, visual: int, num_layers: int) -> Method:
        """The last part at another budget; the other parts are unchanged."""
        if isinstance(retain, float):
            raise BudgetError(
                f"retain={retain!r}: give a composition tokens; its parts see different numbers of them"
            )
        left = visual
        for part in self.parts[:-1]:
            left = part.plan(left, num_layers, part.stage_layers(num_layers)).entering[-1]
        return Compose(*self.parts[:-1], self.parts[-1].with_budget(retain, left, num_layers))

    def __str__(self) -> str:
        return " > ".join(map(str, self.parts))

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.name, "parts": [part.to_dict() for part in self.parts]}


def _stages_of(part: Method) -> int:
    """The number of stages of a method."""
    if part.layers is not None:
        return len(part.layers)
    return len(part.retain if isinstance(part.retain, tuple) else part.depths)
