"""Errors that a user can cause. Their messages name the argument, the value and the fix."""

from __future__ import annotations

from reprlib import Repr


class SparseSightError(ValueError):
    """A request that SparseSight cannot fulfil; nothing was changed."""


class BudgetError(SparseSightError):
    """A ``retain`` value that the model, the picture and the pruning layers cannot meet."""


class UnsupportedModelError(SparseSightError):
    """A model, cache or option that sparsification does not work with."""


_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 120
_REPR.maxlong = 40
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 64


def brief(value: object) -> str:
    """``repr`` of an external value for a message, of bounded length and depth."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python refuses to write out an int of more than 4,300 digits
        return f"a {type(value).__name__} of too many digits"


def reason(error: BaseException) -> str:
    """What the error of another library says, on one line of bounded length."""
    return " ".join(str(error)[:4000].split())[:160] or type(error).__name__


def panicked(error: BaseException) -> bool:
    """Whether a library written in Rust, such as tokenizers, gave up: its error is no :class:`Exception`."""
    return type(error).__name__ == "PanicException"
