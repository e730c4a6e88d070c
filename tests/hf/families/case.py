"""A family under test: its models, prompts and runs, each made once, and the methods that fall to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparsesight import sparsify
from sparsesight.method_names import DEFAULT

from .base import CLIPS, SAMPLES, Family, Sample
from .oracle import blinded

NEW = 2  # tokens to generate: one by the prompt, one by a step; chats (`usage.py`) go on for longer
ATTENTION = ("eager", "sdpa")
# Families take turns: each method meets every fourth to sixth of them, each budget every third.
INSIDE = ("sparsevlm+", "fastv", "pyramiddrop", "dart", "last-token", "random")
MERGING = ("sparsevlm", "tome", "pooling", "sparsevlm+")
BEFORE_DECODER = ("divprune", "uniform", "cdpruner")
BY_THE_TOWER = ("vispruner", "fastervlm", "holov")
# Some whose visual tokens are each a patch of a tower that can be read; `vision/test_reader.py` has them all.
READ = (
    "llava",
    "llava-siglip",
    "vipllava",
    "llava_next",
    "qwen2_vl",
    "qwen2_5_vl",
    "glm4v",
    "gemma3",
    "idefics3",
)
BUDGETS = (0.4, 0.5, 0.45)
# Two experts are within 1e-6 at the budget that falls to it: rounding would route a token.
TIED = {"muse_spark": 0.4}
THREE_STAGES = ("sparsevlm", "sparsevlm+", "pyramiddrop", "last-token", "random")


@dataclass(frozen=True)
class Run:
    """What a generation said, and what was kept for it."""

    tokens: Tensor  # [b, t]
    logits: Tensor  # [b, t, vocabulary]
    kept: list[list[Tensor]]
    layers: tuple[int, ...]


class Case:
    """A family with its models, and what several checks need of them."""

    def __init__(self, family: Family, number: int) -> None:
        self.family, self.number = family, number
        self.models: dict[str, Any] = {attention: family.build(attention) for attention in ATTENTION}
        self.samples: tuple[Sample, ...] = (*SAMPLES, *(CLIPS if "video" in family.visual else ()))
        # These stand for all where the others cannot fail apart: two pictures, none, little text, both kinds.
        self.few: tuple[int, ...] = (1, 2, 3, *range(5, len(self.samples)))
        self._prompts: dict[tuple[int, ...], dict[str, Any]] = {}
        self._runs: dict[Any, Run] = {}
        self._oracles: dict[Any, tuple[Tensor, Tensor]] = {}

    def layers(self, attention: str) -> nn.ModuleList:
        """The decoder's layers, where the family's description says they are."""
        found = self.models[attention].get_submodule(self.family.layers)
        assert isinstance(found, nn.ModuleList) and len(found) == len(self.family.kinds)
        return found

    def turn(self, *of: str) -> str:
        """One of several, by the family's number."""
        return of[self.number % len(of)]

    def prompt(self, *which: int) -> dict[str, Any]:
        """What `generate` takes for these samples; by default all."""
        which = which or tuple(range(len(self.samples)))
        if which not in self._prompts:
            self._prompts[which] = self.family.prompts([self.samples[i] for i in which])
        return dict(self._prompts[which])

    def budget(self, method: str = DEFAULT, **how: Any) -> dict[str, Any]:
        """Options of a method: a share that falls to this family, at the few layers it has where it has few."""
        if self.family.stages and method in THREE_STAGES:
            return {"retain": (9, 6)[: len(self.family.stages)], "layers": self.family.stages, **how}
        share = TIED.get(self.family.name, BUDGETS[self.number % len(BUDGETS)])
        # From half of the tokens on, six layers drop none at the first stage of the default.
        return {"retain": min(share, 0.4) if method == DEFAULT else share, **how}

    @cached_property
    def early(self) -> str:
        """A method that acts before the decoder, or after the first layer at which it can."""
        return self.turn(*(BY_THE_TOWER if self.family.name in READ else BEFORE_DECODER))

    def sparse(self, attention: str, method: str = DEFAULT, **how: Any) -> AbstractContextManager[Any]:
        return sparsify(self.models[attention], method, **self.budget(method, **how))

    def generate(self, attention: str, prompt: dict[str, Any], **how: Any) -> tuple[Tensor, Tensor]:
        """New tokens [b, t] and their logits [b, t, vocabulary]."""
        out = self.models[attention].generate(
            **prompt,
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **how,
        )
        return out.sequences[:, -NEW:], torch.stack(out.logits, 1)

    def run(self, attention: str, method: str, *which: int) -> Run:
        """A sparse generation for these samples, by default all."""
        key = attention, method, which
        if key not in self._runs:
            with self.sparse(attention, method) as run:
                tokens, logits = self.generate(attention, self.prompt(*which))
                self._runs[key] = Run(tokens, logits, run.kept if logits.numel() else [], run.layers)
        return self._runs[key]

    def dense(self, attention: str, *which: int) -> Run:
        """The same of the model as it is, before anything was installed on it."""
        key = attention, "dense", which
        if key not in self._runs:
            self._runs[key] = Run(*self.generate(attention, self.prompt(*which)), [], ())
        return self._runs[key]

    def close(self, a: Tensor, b: Tensor, what: str) -> None:
        atol = self.family.tolerance
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-3, msg=lambda text: f"{what}: {text}")

    def visual(self, ids: Tensor) -> Tensor:
        """Places of visual tokens in the ids [n] of a prompt."""
        return torch.isin(ids, torch.tensor(self.family.visual_ids)).nonzero()[:, 0]

    def gone(self, ids: Tensor, stages: tuple[int, ...], kept: list[Tensor]) -> dict[int, Tensor]:
        """For each layer behind a stage, the places in a prompt [n] of the visual tokens that it no longer has."""
        visual, gone = self.visual(ids), {}
        ends = [*stages[1:], len(self.family.kinds) - 1]
        for layer, end, stay in zip(stages, ends, kept, strict=True):
            assert 0 < len(stay) < len(visual), f"nothing pruned after layer {layer}"
            missing = torch.ones(len(visual), dtype=torch.bool)
            missing[stay] = False
            gone |= dict.fromkeys(range(layer + 1, end + 1), visual[missing])
        return gone

    def blinded(self, gone: Mapping[int, Tensor]) -> AbstractContextManager[None]:
        """Within it, the dense model with eager attention does not see these tokens."""
        return blinded(self.layers("eager"), self.family.kinds, gone)

    def oracle(self, which: int, stages: tuple[int, ...], kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the dense model says of a sample whose layers after each stage see no dropped token."""
        key = which, stages, tuple(tuple(k.tolist()) for k in kept)
        if key not in self._oracles:
            prompt = self.prompt(which)
            with self.blinded(self.gone(prompt["input_ids"][0], stages, kept)):
                self._oracles[key] = self.generate("eager", prompt)
        return self._oracles[key]
