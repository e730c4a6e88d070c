"""Chat templates are programs that come with a checkpoint: they get a time and a length, and one sentence beyond."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import SparseSightError

T = TypeVar("T")
SECONDS = 5.0  # a template takes milliseconds
CHARACTERS = 2_000_000  # of all prompts of a batch


class _OutOfTimeError(BaseException):
    """Raised in the thread of a template that takes too long; templates cannot catch it."""


def apply_template(processor: Any, conversations: list[Any], **options: Any) -> Any:
    """``processor.apply_chat_template``, after a trial that bounds the template's time and the length of its text.

    The trial renders text alone, which takes milliseconds.

    Raises:
        SparseSightError: a template that fails, does not end in 5 seconds, or writes more than 2,000,000 characters.
    """
    apply = processor.apply_chat_template
    try:
        text = within(SECONDS, lambda: apply(conversations, add_generation_prompt=True, tokenize=False))
    except SparseSightError:
        raise
    except Exception as error:  # whatever a template's own code raises, in its own words
        why = " ".join(str(error)[:4000].split())[:160] or type(error).__name__
        raise SparseSightError(
            f"the chat template of the model cannot make a prompt of this question ({why})"
        ) from error
    length = sum(map(len, text)) if isinstance(text, list) else len(text)
    if length > CHARACTERS:
        raise SparseSightError(
            f"the chat template of the model makes a prompt of {length:,} characters of this question: use one that "
            "writes the question and little else"
        )
    return apply(conversations, add_generation_prompt=True, **options)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, in a thread of its own that is ended when its time is up.

    The thread ends between two of Python's instructions, so that no loop of a template goes on. What cannot be ended
    (one multiplication of huge numbers) is left behind as a daemon.

    Raises:
        SparseSightError: if the time is up.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except _OutOfTimeError:
            pass
        except BaseException as error:  # raised again where it is waited for
            failed.append(error)

    thread = threading.Thread(target=work, name="chat template", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        number, late = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_OutOfTimeError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, late)
        thread.join(1.0)
    if failed:
        raise failed[0]
    if not done:
        raise SparseSightError(
            f"the chat template of the model did not end within {seconds:g} s: use a checkpoint whose template does"
        )
    return done[0]
