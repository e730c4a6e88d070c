"""The state of the current call, one per thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from .prompt.answers import Labels, PromptEnds
from .prompt.layout import Layout
from .prompt.visual_mask import VisualMaskSpec
from .state import ForwardState


class Call(threading.local):
    """The values below are those that a thread begins with.

    Attributes:
        asked: whether hidden states or attentions of all layers are to be returned.
        labels: as the outermost model was given them.
        ids: token ids of the prompt.
        layout: of the prompt, from when its ids are seen until its forward is opened.
        cache: that the decoder was given.
        forward: the decoder's, while it runs.
        started: when it began, in seconds of the section timer.
        given, questions, ends: the caller's data for the next prompt (:mod:`.sparsify`); they outlive a call.
    """

    asked: bool = False
    labels: Labels | None = None
    ids: Any = None
    layout: Layout | None = None
    cache: Any = None
    forward: ForwardState | None = None
    started: float = 0.0
    given: VisualMaskSpec | None = None
    questions: Sequence[str] | None = None
    ends: PromptEnds | None = None

    def over(self) -> None:
        """Forget the call, except for the caller's data."""
        self.forward = self.layout = self.labels = self.ids = self.cache = None
        self.asked = False
