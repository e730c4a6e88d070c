"""The interface between a token-reduction method and the host that runs the model.

A host (the transformers integration, the vLLM plugin) builds a :class:`StageInput` at every stage, before the first
decoder layer or after any, and gets a :class:`Selection` back. A method defines which text tokens are raters
(``select_raters``), how much each visual token matters (``score``), how many stay (``plan``, or ``counts`` if they
depend on the data) and what happens to the others (``merge``). :meth:`Method.select` implements what holds for every
method: exact counts, stable ties, order and recycling.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from ..errors import BudgetError, SparseSightError, brief
from .budget import (
    BEFORE,
    PUBLISHED_LAYERS,
    Retain,
    Schedule,
    StageSizes,
    as_published,
    check_layers,
    plan,
    pruning_layers,
)
from .facts import UNSAID, Meaning
from .fields import check_plain, plain_value
from .retain import check_retain
from .stage import Counts, Selection, StageInput

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# More visual tokens than any picture has: a budget that cannot be met with these cannot be met at all.
ANY_PICTURE = 1_000_000
MAX_TEXT = 4096  # characters of a method in text form
Group = Literal["inside the language model", "before the language model", "controls"]
READ_A_STAGE = {"score", "counts", "merge", "select", "select_from_scores"}


@dataclass(frozen=True)
class Method(ABC):
    """A token-reduction method as plain data: frozen, comparable, JSON-serialisable.

    Attributes:
        retain: average visual tokens per layer (int), a ratio in (0, 1], or kept counts per stage (tuple); see
            :mod:`sparsesight.core.budget`.
        layers: 0-based decoder layers after which to prune, -1 for before the first. Default: the published relative
            depths.
        positions: ``"original"`` keeps every token's rotary position; ``"compact"`` renumbers the tokens of each
            stage from zero and places merged tokens after the kept ones, as SparseVLM v1.x does.
        always_drop: the published clamp: every stage drops at least one token. Off by default, so that a budget that
            the picture already meets drops nothing.
        per_frame: spread the budget over the frames of clips, and over pictures: each keeps the same share, to within
            rounding (:func:`ops.group_ranks`), instead of competing for the budget of the whole prompt. The total
            number of tokens that a stage keeps is the same.
        judged_by: ``"turn"``: a picture is scored by the text of its own turn, and each turn of a chat has its own
            budget, if the host knows how turns end. ``"prompt"``, as published: one budget for all pictures of a
            prompt, scored by all text after the last picture.

    Raises:
        BudgetError: ``retain`` or ``layers`` is not a valid budget.
        SparseSightError: another field is invalid.
    """

    retain: Retain = 64
    layers: tuple[int, ...] | None = None
    positions: Literal["original", "compact"] = "original"
    always_drop: bool = False
    per_frame: bool = False
    judged_by: Literal["turn", "prompt"] = "turn"

    name: ClassVar[str]
    when: ClassVar[str] = ""  # when to choose it, in a few words
    meaning: ClassVar[Meaning] = UNSAID  # what its scores are, for pictures
    control: ClassVar[bool] = False  # one that others are compared with, not one to use
    depths: ClassVar[tuple[int, ...]] = (2, 6, 15)  # published pruning layers, of 32
    published_budgets: ClassVar[Mapping[int, tuple[int, ...]]] = {}
    # Budgets of `published()`; a range if the release accepts any number, () if it is one setting without a budget.
    published_at: ClassVar[Sequence[Retain] | None] = None  # None: no setting is published
    # False: it reads none of the decoder's, so that none is shown, and it can also prune before the first layer.
    requires_attention: ClassVar[bool] = True
    requires_raters: ClassVar[bool] = True  # False: `select_raters` is not called, and there are no raters
    # The text rows that the method reads. "raters" lets a host show these alone, and save the queries of the others; it
    # holds for a class that says so itself, or has inherited all that reads a stage.
    rows_read: ClassVar[Literal["text", "raters"]] = "text"
    requires_vision: ClassVar[bool] = False  # whether it needs `StageInput.vision`
    requires_text_tower: ClassVar[bool] = False  # whether also `StageInput.question_relevance`
    requires_frames: ClassVar[bool] = False  # whether it needs `StageInput.frame`, also without `per_frame`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "rows_read" not in vars(cls) and READ_A_STAGE & vars(cls).keys():
            cls.rows_read = "text"

    def __post_init__(self) -> None:
        check_retain(tuple(self.retain) if isinstance(self.retain, list) else self.retain)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise SparseSightError(f"{field.name}={brief(value)}: use True or False")
            check_plain(field.name, value)
            object.__setattr__(self, field.name, plain_value(value))
        if self.layers is not None:
            check_layers(self.layers)
        if self.positions not in ("original", "compact"):
            raise SparseSightError(f"positions={self.positions!r}: use 'original' or 'compact'")
        if self.judged_by not in ("turn", "prompt"):
            raise SparseSightError(f"judged_by={self.judged_by!r}: use 'turn' or 'prompt'")

    # -- the three things a method decides ---------------------------------------------------------------------

    def select_raters(
        self,
        visual: Float[Tensor, "b v c"],
        text: Float[Tensor, "b t c"],
        visual_mask: Bool[Tensor, "b v"],
        text_mask: Bool[Tensor, "b t"],
    ) -> Bool[Tensor, "b t"]:
        """Which text tokens are raters, from the embeddings of text and visual tokens that enter layer 0.

        Default: :func:`ops.text_raters`.
        """
        return ops.text_raters(visual, text, visual_mask, text_mask)

    @abstractmethod
    def score(self, stage: StageInput) -> Float[Tensor, "b v"]:
        """How much each visual token matters; larger is better."""

    def counts(self, stage: StageInput) -> Counts:
        """How many tokens to keep. Default: the schedule's counts, known before any tensor exists."""
        assert stage.planned is not None
        return stage.planned

    def merge(self, stage: StageInput, recycled: Int[Tensor, "b m"], counts: Counts) -> ops.Merge:
        """Merge the recycled visual tokens (columns, best score first).

        Default: :func:`ops.density_peaks_merge` of their hidden states.
        """
        tokens = ops.gather_rows(stage.hidden, stage.column.gather(1, recycled))
        return ops.density_peaks_merge(tokens, counts.recycled, counts.merged)

    def multiplicity(self, stage: StageInput, selection: Selection) -> Float[Tensor, "b v"] | None:
        """How many tokens of the prompt each visual token stands for after the stage; default: as many as before."""
        return stage.multiplicity

    def overhead(self, sizes: StageSizes) -> int:
        """Multiply-adds of the method itself at one stage, for one sample.

        Default: the raters (once), one row of attention for every text token, which is the maximum number of raters,
        and the distances between recycled tokens.
        """
        raters = sizes.tokens_in * sizes.text * sizes.hidden if sizes.index == 0 else 0
        return raters + sizes.text * sizes.keys * sizes.width + sizes.recycled**2 * sizes.hidden

    def with_budget(self, retain: Retain, visual: int, num_layers: int) -> Method:
        """This method at another budget, for prompts of ``visual`` tokens in a decoder of ``num_layers``.

        A method whose published layers cannot meet every budget overrides this to move them.
        """
        return dataclasses.replace(self, retain=retain)

    # -- written once for all methods -------------------------------------------------------------------------

    @property
    def data_dependent(self) -> bool:
        """Whether counts depend on the data; then there is no schedule, and each stage needs one device sync."""
        return False

    def rows_read_at(self, index: int) -> Literal["text", "raters"]:
        """See :attr:`rows_read`, of stage ``index``."""
        return self.rows_read

    def requires_attention_at(self, index: int) -> bool:
        """See :attr:`requires_attention`, of stage ``index``."""
        return self.requires_attention

    @property
    def weights_keys(self) -> bool:
        """Whether tokens count for as many as they stand for (:meth:`multiplicity`), by a bias on their keys."""
        return False

    @property
    def one_budget(self) -> bool:
        """Whether the method has one ``retain`` and ``layers``; in a composition each part has its own."""
        return True

    @property
    def recycled_fraction(self) -> float:
        """Fraction of the dropped tokens that is merged and kept."""
        return 0.0

    @classmethod
    def group(cls) -> Group:
        """What kind of method it is, for lists."""
        if cls.control:
            return "controls"
        return "before the language model" if cls.depths[0] == BEFORE else "inside the language model"

    def stage_layers(self, num_layers: int, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The pruning layers in a decoder of ``num_layers``.

        Raises:
            BudgetError: they do not fit, or no picture could meet the budget with them.
            SparseSightError: one of them is not ``allowed``.
        """
        layers = self._layers(num_layers, allowed)
        if not self.data_dependent and not isinstance(self.retain, int):
            # A ratio or counts that no picture could meet fail now.
            self.plan(ANY_PICTURE, num_layers, layers)
        return layers

    def _layers(self, num_layers: int, allowed: tuple[int, ...] | None) -> tuple[int, ...]:
        if self.layers is None:
            depths = self.depths
            if isinstance(self.retain, tuple) and not self.data_dependent:
                depths = depths[: len(self.retain)]
            return pruning_layers(depths, num_layers, allowed)
        try:
            check_layers(self.layers, num_layers)
        except BudgetError as error:
            if self.layers != self.depths:
                raise
            raise BudgetError(
                f"{error}; they are the published ones, for a decoder of {PUBLISHED_LAYERS} layers: without layers "
                f"({self.name!r} instead of '{self.name}:published') the same relative depths are taken"
            ) from None
        if self.requires_attention and self.layers[0] == BEFORE:
            raise SparseSightError(
                f"layers={self.layers!r}: {self.name!r} uses the attention of decoder layers, and there is none "
                "before the first; give layers from 0 on"
            )
        bad = [] if allowed is None else [x for x in self.layers if x not in allowed]
        if bad:
            raise SparseSightError(
                f"layers={self.layers!r}: this model cannot prune after {bad}; possible: {allowed}"
            )
        return self.layers

    def plan(self, visual: int, num_layers: int, layers: tuple[int, ...]) -> Schedule:
        """The schedule for ``visual`` tokens (see :func:`sparsesight.core.budget.plan`)."""
        return plan(
            self.retain,
            visual,
            num_layers,
            layers,
            recycle=self.recycled_fraction,
            always_drop=self.always_drop,
            published=as_published(self.published_budgets if layers == self.depths else {}),
        )

    def select(self, stage: StageInput) -> Selection:
        """Score, keep exactly the planned number of tokens (the earlier one wins ties), and merge the recycled ones."""
        with torch.no_grad():
            score = self.score(stage)
        return self.select_from_scores(stage, score)

    def select_from_scores(self, stage: StageInput, score: Float[Tensor, "b v"]) -> Selection:
        """The second half of :meth:`select`, given the scores; hosts that measure time call the halves separately."""
        with torch.no_grad():
            counts = self.counts(stage)
            place = ops.ranks(score, stage.visual)
            if self.per_frame:
                if stage.frame is None or stage.frame_tokens is None:
                    raise SparseSightError(
                        "per_frame=True: the frames that the visual tokens belong to are not known"
                    )
                place = ops.group_ranks(place, stage.frame, stage.frame_tokens, stage.visual)
            keep = (place < counts.keep[:, None]) & stage.visual
            if not any(counts.merged):
                return Selection(keep, score, counts, meaning=self.meaning)
            behind = place - counts.keep[:, None]
            recycled, _ = ops.first_ranked(behind, stage.visual & ~keep, counts.recycle, max(counts.recycled))
        merge = self.merge(stage, recycled, counts)
        return Selection(keep, score, counts, recycled, merge, meaning=self.meaning)

    def __str__(self) -> str:
        """The text that :func:`sparsesight.methods.parse` reads: ``sparsevlm+(retain=192)``, without default values."""
        said = [
            f"{f.name}={value!r}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default or type(value) is not type(f.default)
        ]
        return f"{self.name}({', '.join(said)})" if said else self.name

    def to_dict(self) -> dict[str, Any]:
        """This method as JSON-serialisable data; :func:`sparsesight.methods.from_dict` reads it."""
        return {"method": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class PreDecoderMethod(Method):
    """A method that prunes the projected visual tokens before the first decoder layer, without its attention."""

    depths: ClassVar[tuple[int, ...]] = (BEFORE,)
    requires_attention: ClassVar[bool] = False
    requires_raters: ClassVar[bool] = False
