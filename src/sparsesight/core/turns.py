"""Token ids that mark the turns of a chat, given by the caller or read from a processor's chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from ..checkpoint_limits import CHARACTERS, rendered
from ..errors import SparseSightError
from .regions import Marks, covered, matches

Ids = tuple[int, ...]
Marker = str | int | Sequence[int]

# Said by the user and the model where a template is read: no template writes these by itself.
USER, MODEL, USER_AGAIN = "Quartz0", "Basalt1", "Gneiss2"
# What may stand in front of a marker, as tokenizers may join its first character with what it follows.
FRONT = ("?", "a", ".", "a ", "?\n")
BLANKS = (" ", "  ", "\n", "\n\n", " \n", "\t")


@dataclass(frozen=True)
class Turns:
    """Sequences of token ids that mark the turns of a chat.

    Attributes:
        end: the end of a user's turn, which starts the answer, such as the ids of ``ASSISTANT:``. The text that
            follows, up to and including the next of these, is the next turn. A token that ends only the *answer*, such
            as LLaVA's ``</s>``, does not qualify: answers would be part of the question's turn, although they do not
            exist yet when it is asked.
        start: the start of a user's text, such as the ids of ``USER:``.
        template: single tokens that are never part of a question, such as special tokens and blanks. With these the
            question may come before its picture, see :func:`sparsesight.sparsify`.
    """

    end: tuple[Ids, ...]
    start: tuple[Ids, ...] = ()
    template: Ids = ()

    @classmethod
    def of(cls, turns: Turns | Marker | Iterable[Marker] | None, processor: Any = None) -> Turns | None:
        """What is known of a model's chats: by the caller's own ``turns``, else by the ``processor``'s chat template.

        Args:
            turns: markers of :attr:`end`: strings (which need the processor), ids, or sequences of ids.
            processor: of the model, or its tokenizer.

        Returns:
            None if neither tells.

        Raises:
            SparseSightError: markers that are none, or strings without a tokenizer.
        """
        if isinstance(turns, Turns):
            return turns
        tokenizer = getattr(processor, "tokenizer", processor)
        if processor is not None and not callable(tokenizer):
            raise SparseSightError(
                f"processor={type(processor).__name__}: give the model's processor or tokenizer, as AutoProcessor loads"
            )
        if turns is not None:
            end = _given(turns, tokenizer)
            if tokenizer is None:
                return cls(end)
            of_chats = of_template(processor)
            return cls(end, () if of_chats is None else of_chats.start, silent_tokens(tokenizer))
        return None if processor is None else of_template(processor)

    def marks(self, ids: Tensor) -> Marks:
        """Of the rows of prompts [b, n]."""
        end = matches(ids, self.end)
        start = torch.zeros_like(end)
        opened = matches(ids, self.start)
        start[:, 1:] = opened[:, :-1]
        if not self.template:
            return Marks(end, start if self.start else None)
        template = torch.isin(ids, torch.tensor(self.template, device=ids.device))
        for sequence in (*self.end, *self.start):
            template = template | covered(matches(ids, [sequence]), len(sequence))
        return Marks(end, start if self.start else None, template)


def _given(turns: Marker | Iterable[Marker], tokenizer: Any) -> tuple[Ids, ...]:
    turns = turns.tolist() if isinstance(turns, Tensor) else turns
    markers = (
        [turns] if isinstance(turns, (str, bytes, int)) or not isinstance(turns, Iterable) else list(turns)
    )
    found: list[Ids] = []
    for given in markers:
        marker = given.tolist() if isinstance(given, Tensor) else given
        if isinstance(marker, str) and marker.strip():
            if tokenizer is None:
                raise SparseSightError(
                    f"turns={marker!r}: text becomes tokens by the model's own tokenizer; give processor=... as well, "
                    "or token ids"
                )
            found += in_context(tokenizer, marker)
        elif isinstance(marker, int) and not isinstance(marker, bool) and marker >= 0:
            found.append((marker,))
        elif (
            not isinstance(marker, (str, bytes, int))
            and isinstance(marker, Iterable)
            and (own := tuple(marker))
            and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in own)
        ):
            found.append(own)
        else:
            raise SparseSightError(
                f"turns={marker!r}: give what ends a user's turn, as text such as 'ASSISTANT:', a token id, or a "
                "sequence of token ids"
            )
    if not found:
        raise SparseSightError("turns=[]: give at least one marker that ends a user's turn, or leave it out")
    return tuple(dict.fromkeys(found))


def of_template(processor: Any) -> Turns | None:
    """Markers of the chat template of a processor or tokenizer; None if it has none, or one that does not show them."""
    tokenizer = getattr(processor, "tokenizer", processor)
    holder = next((x for x in (processor, tokenizer) if getattr(x, "chat_template", None)), None)
    if holder is None:
        return None
    for wrapped in (False, True):  # a template that wants a list shows no string
        told = _rendered(holder, wrapped)
        if told is None:
            continue
        asked, answered = told
        end = asked.split(USER)[1]
        again = answered.split(USER)[1].split(MODEL)[0]
        # An answer may be asked for with more than what stands in front of one that was given, such as a thought.
        common = _shared(end, again)
        if not end.strip():
            return None
        ends = [common] if common.strip() else [end, again]
        first = answered.split(USER)[0]
        between = answered.split(MODEL)[1].split(USER_AGAIN)[0]
        start = _shared(first[::-1], between[::-1])[::-1]
        return Turns(
            tuple(dict.fromkeys(ids for text in ends for ids in in_context(tokenizer, text))),
            _last_part(tokenizer, start),
            silent_tokens(tokenizer),
        )
    return None


def _shared(a: str, b: str) -> str:
    """What both begin with."""
    return "".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _rendered(holder: Any, wrapped: bool) -> tuple[str, str] | None:
    """A question with the template's request for an answer, and a chat of two questions; None if it takes no such."""

    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if wrapped else text}

    chat = [turn("user", USER), turn("assistant", MODEL), turn("user", USER_AGAIN)]
    try:
        asked, answered = rendered(
            holder,
            lambda: (
                str(holder.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)),
                str(holder.apply_chat_template(chat, tokenize=False)),
            ),
        )
    except Exception:  # a template is a program that came with the checkpoint
        return None
    if len(asked) + len(answered) > CHARACTERS:
        return None
    fits = asked.count(USER) == 1 and all(answered.count(x) == 1 for x in (USER, MODEL, USER_AGAIN))
    return (asked, answered) if fits else None


def in_context(tokenizer: Any, text: str) -> list[Ids]:
    """The token ids of ``text`` wherever it may stand; what they share with the text in front of it is left out."""
    text = text.rstrip(" ")
    found: list[Ids] = []
    for front in ("", *FRONT):
        for marker in (text, text.lstrip()):
            alone, both = (_ids(tokenizer, x) for x in (front, front + marker))
            if both[: len(alone)] == alone and len(both) > len(alone):
                found.append(both[len(alone) :])
    found = sorted(dict.fromkeys(found), key=len)
    # One that ends with another is found with that.
    kept: list[Ids] = []
    for ids in found:
        if not any(ids[-len(other) :] == other for other in kept):
            kept.append(ids)
    return kept


def _last_part(tokenizer: Any, text: str) -> tuple[Ids, ...]:
    """Of what comes before a user's words, what begins with the last special token: more may be cut off by a cache."""
    if not text.strip():
        return ()
    special = set(_special(tokenizer))
    parts = []
    for ids in in_context(tokenizer, text):
        at = max((i for i, token in enumerate(ids) if token in special), default=-1)
        parts.append(ids[at:] if 0 <= at < len(ids) - 1 else ids)
    return tuple(dict.fromkeys(parts))


def silent_tokens(tokenizer: Any) -> Ids:
    """Special tokens and blanks, which ask nothing."""
    found = set(_special(tokenizer))
    for blank in BLANKS:
        for text in (blank, f"a{blank}a"):
            found |= {x for x in _ids(tokenizer, text) if not str(tokenizer.decode([x])).strip()}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return tuple(sorted(found - {unknown}))


def _special(tokenizer: Any) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)]


def _ids(tokenizer: Any, text: str) -> Ids:
    return tuple(int(x) for x in tokenizer(text, add_special_tokens=False)["input_ids"])
