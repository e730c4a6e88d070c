"""What a page asks for, checked before it waits for a turn."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SparseSightError
from ..method_names import DEFAULT
from ..methods import METHODS, Method, make_method
from ..methods.published import SUFFIX
from .uploads import Uploads

MAX_QUESTION = 1000  # characters
MAX_RETAIN = 1_000_000  # visual tokens
MAX_CELLS = 24  # of a comparison


@dataclass(frozen=True)
class Asked:
    """A request of a page; nothing of it is trusted.

    Attributes:
        uploads: whose pictures may be asked about.
        path: of the picture, which is read when a run begins.
        question, method, retain: as the page sent them; a comparison has its own methods and budgets.
    """

    uploads: Uploads
    path: Path | None
    question: str
    method: str = DEFAULT
    retain: Any = 64

    @classmethod
    def sent(cls, uploads: Uploads, upload: Any, *values: Any, typing: bool = False) -> Asked:
        """What a page sent: a picture (:meth:`.Uploads.path_of`), a question, a method and a budget, checked.

        Raises:
            SparseSightError: as :meth:`check`, and for a picture that was not uploaded here.
        """
        asked = cls(uploads, uploads.path_of(upload), *values)
        asked.check(typing)
        return asked

    def check(self, typing: bool = False) -> None:
        """Reject what cannot be asked, before it waits for a turn.

        Args:
            typing: the question is being typed: it may be empty, and the picture is not checked at every key.

        Raises:
            SparseSightError: no picture, an empty or overlong question, an unknown method or budget.
        """
        if not isinstance(self.question, str) or not (typing or self.question.strip()):
            raise SparseSightError("the question is empty: ask something about the picture")
        if len(self.question) > MAX_QUESTION:
            raise SparseSightError(
                f"the question has {len(self.question):,} characters, more than the limit of {MAX_QUESTION:,}: "
                "shorten it"
            )
        if any("\ud800" <= character <= "\udfff" for character in self.question):
            raise SparseSightError("the question contains half a character (a lone surrogate): type it again")
        self.chosen()
        if not typing:
            self.uploads.check(self.path)

    def chosen(self) -> Method:
        check_method(self.method)
        if not _whole(self.retain):
            raise SparseSightError(
                f"retain={reprlib.repr(self.retain)}: give a whole number of visual tokens, {MAX_RETAIN:,} at most"
            )
        return make_method(self.method, retain=int(self.retain))


def check_method(name: Any) -> None:
    """Reject the name of an unknown method.

    Raises:
        SparseSightError: if there is no such method.
    """
    if not isinstance(name, str) or name.removesuffix(SUFFIX) not in METHODS:
        raise SparseSightError(f"method={reprlib.repr(name)} is unknown: choose one from the list")
    make_method(name)


def _whole(number: Any) -> bool:
    """Whether it is a whole number of tokens that some model could have."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= MAX_RETAIN:
        return False
    return number == int(number)


def check_grid(methods: Any, budgets: Any) -> None:
    """Reject a comparison that cannot be made.

    Raises:
        SparseSightError: no method or budget, an unknown one, or too many of them.
    """
    if not isinstance(methods, list) or not methods:
        raise SparseSightError("no method is chosen: choose at least one to compare")
    if not isinstance(budgets, list) or not budgets:
        raise SparseSightError("no budget is chosen: choose at least one to compare")
    if len(methods) * len(budgets) > MAX_CELLS:
        raise SparseSightError(
            f"{len(methods)} methods at {len(budgets)} budgets are {len(methods) * len(budgets)} runs, more than the "
            f"limit of {MAX_CELLS}: choose fewer"
        )
    for name in methods:
        check_method(name)
    for budget in budgets:
        if not isinstance(budget, int) or not _whole(budget) or budget < 1:
            raise SparseSightError(f"budget {reprlib.repr(budget)} is not a budget: choose from the list")
