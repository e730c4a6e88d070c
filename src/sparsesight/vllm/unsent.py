"""Pictures that vLLM's front end has prepared and not sent, so that no request reaches the engine without its own."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any


class Unsent:
    """Pictures that have been rendered and not been sent, for requests that were rendered in between.

    vLLM's front end sends the engine a picture once, and only its hash from then on. It marks a picture as sent when
    it renders it. The picture of a request that is refused afterwards, by the plugin or by vLLM itself, is never sent,
    and a request that has only its hash would reach the engine without ("cache drift", HTTP 500).
    """

    SECONDS, ITEMS = 30.0, 64  # what is rendered is sent or refused within milliseconds

    def __init__(self) -> None:
        self._items: OrderedDict[str, tuple[float, Any, Any]] = OrderedDict()

    def hold(self, cache: Any, prompt: Any) -> None:
        """Take the pictures that ``prompt`` is to send; vLLM's ``cache`` knows what was sent, if there is one."""
        for _, at, name, items in _pictures(prompt):
            if items[at] is not None and cache is not None:
                self._items[name] = time.monotonic(), items[at], cache
                self._items.move_to_end(name)
        self.expire()

    def refuse(self, cache: Any, prompt: Any) -> None:
        """As :meth:`hold`; who is rendered from now on sends them again."""
        self.hold(cache, prompt)
        for _, at, name, items in _pictures(prompt):
            if items[at] is not None and cache is not None:
                cache.invalidate(name)

    def complete(self, prompt: Any) -> None:
        """Give ``prompt`` the pictures of which it has only the hash, if they are held."""
        if not self._items:
            return
        for modality, at, name, items in _pictures(prompt):
            if items[at] is None and name in self._items:
                items = list(items)
                items[at] = self._items[name][1]
                prompt["mm_kwargs"][modality] = items

    def sent(self, prompt: Any) -> None:
        """Forget the pictures of ``prompt``: the engine gets them."""
        for _, at, name, items in _pictures(prompt):
            if items[at] is not None:
                self._items.pop(name, None)

    def expire(self) -> None:
        """Forget the oldest, which the next request that is rendered sends again."""
        oldest = time.monotonic() - self.SECONDS
        while self._items:
            name, (since, _, cache) = next(iter(self._items.items()))
            if since >= oldest and len(self._items) <= self.ITEMS:
                return
            cache.invalidate(name)
            del self._items[name]


def _pictures(prompt: Any) -> list[tuple[str, int, str, Any]]:
    """Modality, place, hash and all items of the modality, for each picture of a rendered prompt."""
    if not isinstance(prompt, Mapping) or not prompt.get("mm_kwargs"):
        return []
    hashes = prompt.get("mm_hashes") or {}
    return [
        (modality, at, name, prompt["mm_kwargs"][modality])
        for modality, names in hashes.items()
        for at, name in enumerate(names)
        if modality in prompt["mm_kwargs"]
    ]
