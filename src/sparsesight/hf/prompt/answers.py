"""Finds where answers begin in plain forwards over prompt and answer, as in training and scoring."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ...core.regions import on_pictures
from ...errors import SparseSightError

IGNORED = -100  # labels that no loss counts, in all of transformers
KINDS = ("labels", "shift_labels")


@dataclass(frozen=True)
class PromptEnds:
    """Where a caller says that the answer of each sample begins."""

    ends: tuple[int, ...]  # column per sample; one: of every sample

    @classmethod
    def of(cls, ends: int | Sequence[int] | Tensor) -> PromptEnds:
        """Check what was given; a tensor may wait for the device.

        Raises:
            SparseSightError: saying what was given, and what is possible.
        """
        given: Any = ends.tolist() if hasattr(ends, "tolist") else ends  # of tensors and of numpy
        columns = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if not columns or not all(isinstance(x, Integral) and not isinstance(x, bool) for x in columns):
            said = f"{ends.dtype} {list(ends.shape)}" if isinstance(ends, Tensor) else repr(ends)
            raise SparseSightError(
                f"prompt_ends: ends={said}; give the column at which the answers begin, a whole number, or one for "
                "each sample"
            )
        return cls(tuple(int(x) for x in columns))

    def columns(self, visual: Tensor) -> Tensor:
        """int64 [b] for an input of this size; ``visual`` [b, n].

        Raises:
            SparseSightError: if it does not fit.
        """
        batch, length = visual.shape
        if batch % len(self.ends) or any(not -length <= x <= length for x in self.ends):
            raise SparseSightError(
                f"prompt_ends: ends={list(self.ends)}, but this call brings {length} tokens for a batch of {batch}; "
                "give every call its own"
            )
        ends = torch.tensor([x + length if x < 0 else x for x in self.ends])
        return ends.repeat_interleave(batch // len(self.ends)).to(visual.device, non_blocking=True)


@dataclass(frozen=True)
class Labels:
    """Labels of a call, copied: the model reads them when its decoder is done, and until then they may be changed.

    Attributes:
        given: by the names of the model's arguments; ``labels`` [b, n] of the tokens themselves, or ``shift_labels``
            [b, n] of those that follow.
    """

    given: dict[str, Tensor]

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> Labels | None:
        """Those among the arguments of a model; None without any."""
        found = {
            k: kwargs[k].clone() for k in KINDS if isinstance(kwargs.get(k), Tensor) and kwargs[k].ndim == 2
        }
        return cls(found) if found else None

    def rows(self, like: Tensor) -> Tensor | None:
        """Which rows are labelled, boolean [b, n] as ``like``; None if the labels are of another size."""
        name, labels = next(iter(self.given.items()))
        if labels.shape != like.shape:
            return None
        labelled = labels.to(like.device) != IGNORED
        return torch.nn.functional.pad(labelled[:, :-1], (1, 0)) if name == "shift_labels" else labelled

    def answer_start(self, visual: Tensor) -> Tensor | None:
        """Column [b] at which each sample's answer to its last picture begins; None if the labels are of another size.

        It is that of the first label after the last visual token; where there is none, the prompt has no end. Neither
        has it where labels are on everything, as a language model's: they are on pictures or right in front of them,
        and go on right behind the last, or with the first token that is predicted from text.

        Args:
            visual: boolean [b, n].
        """
        labelled = self.rows(visual)
        if labelled is None:
            return None
        length = visual.shape[1]
        column = torch.arange(length, device=visual.device).expand(visual.shape)
        last = torch.where(visual, column, -1).amax(1, keepdim=True)
        start = torch.where(labelled & (column > last), column, length).amin(1)
        of_all = on_pictures(labelled, visual).any(1) & (start <= last[:, 0] + 2)
        return torch.where(of_all, length, start)

    def ignore(self, dropped: Tensor) -> Tensor | None:
        """Set what would be predicted from ``dropped`` tokens [b, n] to -100.

        Returns:
            int64 [labels, ignored ones]; None if the labels are of another size.
        """
        counts = None
        for name, labels in self.given.items():
            if labels.shape == dropped.shape:
                rows = dropped.to(labels.device)
                if name == "labels":
                    rows = torch.nn.functional.pad(rows[:, :-1], (1, 0))
                wanted = labels != IGNORED
                counts = torch.stack((wanted.sum(), (wanted & rows).sum()))
                labels.masked_fill_(rows, IGNORED)
        return counts


def prompt_end(visual: Tensor, said: PromptEnds | None, labels: Labels | None) -> int | Tensor:
    """The column at which the prompt of a plain forward ends, of all samples or of each [b]."""
    if said is not None:
        return said.columns(visual)
    start = None if labels is None else labels.answer_start(visual)
    return visual.shape[1] if start is None else start


class IgnoredLabels:
    """Takes labels away from dropped tokens, and says so once."""

    def __init__(self) -> None:
        self.warned = False

    def apply(self, labels: Labels | None, dropped: Callable[[], Tensor | None]) -> None:
        """Nothing can be predicted from ``dropped()`` tokens [b, n]; waits for the device until it has warned."""
        rows = None if labels is None else dropped()
        counts = None if labels is None or rows is None else labels.ignore(rows)
        if counts is None or self.warned:
            return
        given, ignored = counts.tolist()
        if ignored:
            self.warned = True
            warnings.warn(
                f"labels: {ignored} of {given} would be predicted from visual tokens that were dropped, and are "
                "ignored (-100 for the loss), in later calls too; to choose them yourself, set labels to -100 on "
                "visual tokens and on the token after each picture",
                stacklevel=2,
            )
