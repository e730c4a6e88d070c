"""What comes with a checkpoint and makes its prompts is bounded: a chat template in time, length and memory, the size
that pictures are scaled to in memory, and what becomes of a picture in tokens and numbers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from .errors import SparseSightError, panicked, reason

T = TypeVar("T")
SECONDS = 5.0  # a template takes milliseconds
CHARACTERS = 2_000_000  # of all prompts of a batch
ADDED = 50_000  # characters of one prompt beyond its conversation; templates add some hundred
MEMORY = 4 * 2**30  # bytes that making a prompt may take; a batch of large pictures takes a few hundred MB
TOKENS = 32_768  # of a prompt for its text, and as many for each picture; models make 16,384 of one at most
PIXELS = (
    2**27
)  # numbers that a picture may become; 4096 x 4096 pixels of two frames and three colours are 100 million
STATM = Path("/proc/self/statm")  # Linux: pages of the address space, and more


@contextmanager
def making_prompt() -> Iterator[None]:
    """Around the use of a checkpoint's processor: it gets bounded memory, and what fails in it is one sentence.

    Raises:
        SparseSightError: in place of whatever the processor raises.
    """
    try:
        with bounded_memory():
            yield
    except SparseSightError:
        raise
    except BaseException as error:  # a processor does what a config says that came with the checkpoint
        if not (isinstance(error, Exception) or panicked(error)):
            raise
        raise SparseSightError(
            f"the processor of the model cannot make a prompt of this question and picture ({reason(error)})"
        ) from error


def apply_template(processor: Any, conversations: list[Any], **options: Any) -> Any:
    """``processor.apply_chat_template``, after a trial that bounds the template's time and the length of its text.

    The trial renders text alone, which takes milliseconds.

    Raises:
        SparseSightError: a template that fails, does not end in 5 seconds, writes more than 2,000,000 characters, or
            50,000 beyond a conversation.
    """
    apply = processor.apply_chat_template
    try:
        with bounded_memory():
            text = rendered(
                processor, lambda: apply(conversations, add_generation_prompt=True, tokenize=False)
            )
    except SparseSightError:
        raise
    except Exception as error:  # whatever a template's own code raises, in its own words
        raise SparseSightError(
            f"the chat template of the model cannot make a prompt of this question ({reason(error)})"
        ) from error
    texts, chats = (text, conversations) if isinstance(text, list) else ([text], [conversations])
    length = sum(map(len, texts))
    added = max((len(made) - len(str(chat)) for made, chat in zip(texts, chats, strict=False)), default=0)
    if length > CHARACTERS or added > ADDED:
        raise SparseSightError(
            f"the chat template of the model makes a prompt of {length:,} characters of this question: use one that "
            "writes the question and little else"
        )
    with making_prompt():
        inputs = apply(conversations, add_generation_prompt=True, **options)
    if not isinstance(inputs, str | list):
        check_prompt(inputs, [_pictures(chat) for chat in chats])
    return inputs


def check_prompt(inputs: Any, pictures: Sequence[int]) -> None:
    """Refuse inputs that would keep a model busy for hours, such as those of a processor that cuts pictures into
    thousands of tiles; to be called before anything is encoded.

    Args:
        inputs: what a processor made of a batch.
        pictures: how many pictures and frames each of its prompts shows.

    Raises:
        SparseSightError: more than 32,768 tokens, and as many per picture, in a prompt; or more than 2^27 numbers per
            picture.
    """
    ids = inputs["input_ids"]
    length, limit = (len(ids[0]) if len(ids) else 0), TOKENS * (1 + max(pictures, default=0))
    if length > limit:
        raise SparseSightError(
            f"the processor of the model makes {length:,} tokens of a prompt with {_said(max(pictures))}, more than "
            f"the limit of {limit:,}: use smaller pictures, or a processor that makes fewer tokens of one"
        )
    check_pixels(list(inputs.values()), sum(pictures))


def check_pixels(values: Any, pictures: int) -> None:
    """Refuse the pixel values (tensors, in lists or not) that a processor made of some pictures and frames.

    Raises:
        SparseSightError: more than 2^27 numbers per picture.
    """
    count, limit = _numbers(values), PIXELS * max(pictures, 1)
    if count > limit:
        raise SparseSightError(
            f"the processor of the model makes {count:,} numbers of {_said(pictures)}, more than the limit of "
            f"{limit:,}: use smaller pictures, or a processor that cuts them into fewer tiles"
        )


def _numbers(values: Any) -> int:
    if isinstance(values, list | tuple):
        return sum(map(_numbers, values))
    return int(getattr(values, "nbytes", 0)) // (getattr(values, "itemsize", 0) or 1)


def _pictures(chat: Any) -> int:
    """How many pictures, and frames of clips, a conversation shows."""
    contents = [turn["content"] for turn in chat if isinstance(turn["content"], list)]
    parts = [part for content in contents for part in content if part["type"] != "text"]
    return sum(len(x) if isinstance(x := part.get("video"), list) else 1 for part in parts)


def _said(pictures: int) -> str:
    return f"{pictures} picture{'s' * (pictures != 1)}"


def rendered(processor: Any, render: Callable[[], T]) -> T:
    """What ``render`` makes of a processor's chat template, within the time for it.

    Raises:
        SparseSightError: if the time is up, or the template has powers: one of them can take all of the time there is.
    """
    for holder in (processor, getattr(processor, "tokenizer", None)):
        templates = getattr(holder, "chat_template", None) or ()
        for template in templates.values() if isinstance(templates, dict) else (templates,):
            if isinstance(template, str) and _has_power(template):
                raise SparseSightError(
                    "the chat template of the model uses powers (**), which no prompt needs: use one that "
                    "does not"
                )
    return within(SECONDS, render)


@lru_cache(maxsize=8)
def _has_power(template: str) -> bool:
    """Whether a template has the operator ``**``; in front of keyword arguments it is none."""
    from jinja2 import Environment, TemplateSyntaxError

    before = ""
    try:
        for _, kind, text in Environment(autoescape=True).lex(template):
            if kind == "operator" and text == "**" and before not in ("(", ","):
                return True
            before = before if kind in ("whitespace", "comment") else text
    except TemplateSyntaxError:  # it is reported where it is rendered
        pass
    return False


class _AddressSpace:
    """The bound of this process's address space, held by those who make prompts at the same time."""

    def __init__(self) -> None:
        self._lock, self._holders, self._before = threading.Lock(), 0, (0, 0)

    def bound(self, more: int) -> None:
        import resource

        with self._lock:
            self._holders += 1
            if self._holders > 1:
                return
            self._before = resource.getrlimit(resource.RLIMIT_AS)
            soft, hard = self._before
            wanted = int(STATM.read_text().split()[0]) * resource.getpagesize() + more
            if soft == resource.RLIM_INFINITY or wanted < soft:
                resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))

    def release(self) -> None:
        import resource

        with self._lock:
            self._holders -= 1
            if not self._holders:
                resource.setrlimit(resource.RLIMIT_AS, self._before)


_address_space = _AddressSpace()


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Within it, what would take more than 4 GiB of additional memory fails before it is allocated; on Linux only.

    It holds for the whole process, so for commands only.
    """
    if not STATM.exists():
        yield
        return
    _address_space.bound(MEMORY)
    try:
        yield
    finally:
        _address_space.release()


def within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, in a thread of its own that is ended when its time is up.

    The thread ends between two of Python's instructions, so that no loop of a template goes on. What cannot be ended
    (one operation that takes long) is left behind as a daemon. It is ended by :class:`SystemExit`, which templates
    cannot catch and which threads end with in silence wherever it strikes, the handling of another error included.

    Raises:
        SparseSightError: if the time is up.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except SystemExit:
            pass
        except BaseException as error:  # raised again where it is waited for
            failed.append(error)

    thread = threading.Thread(target=work, name="chat template", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        number, late = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, late)
        thread.join(1.0)
    if failed:
        raise failed[0]
    if not done:
        raise SparseSightError(
            f"the chat template of the model did not end within {seconds:g} s: use a checkpoint whose template does"
        )
    return done[0]
