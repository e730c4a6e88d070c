"""The model in training: a frozen language model with deltas, a tower and a projector, and what it makes of prompts."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from sparsesight import bundled
from sparsesight.bundled import MODEL_PATH
from sparsesight.bundled.smol.base import Base

from . import export, kernels, lowrank
from .aids import Aids
from .batch import Packed
from .eyes import Eyes
from .mixed import BETWEEN
from .pictures import Pictures
from .prompts import Prompts

DTYPE = torch.bfloat16


class Reader:
    """What is trained, `parts`, and what is not.

    `start` is a file of deltas and a projector to go on from; without it the base model is all there is.
    """

    def __init__(self, base: Base, rank: int, seed: int, start: Path | None = None) -> None:
        self.prompts, config = Prompts(base.tokenizer), base.config
        self.language_model = LlamaForCausalLM(config).to(DTYPE).eval()
        self.language_model.load_state_dict(base.state)
        self.language_model.requires_grad_(False)
        self.decoder: Any = self.language_model.model
        self.table = self.language_model.get_input_embeddings().weight.detach()
        torch.manual_seed(seed)
        sight = AutoConfig.from_pretrained(MODEL_PATH).vision_config
        self.projector = LlavaMultiModalProjector(
            LlavaConfig(vision_config=sight, text_config=deepcopy(config), vision_feature_layer=-1)
        )
        self.eyes = Eyes(bundled.load()[0].model.vision_tower, self.projector)
        self.eyes.requires_grad_(False)  # only stages of their own change them
        self.aids = Aids(config.num_hidden_layers, config.hidden_size)
        self.deltas: dict[str, lowrank.LowRank] = {}
        self.rank, self.seed, self.start = rank, seed, start
        self.own_tower = False  # whether the tower is no longer the bundled model's

    def attach(self) -> nn.ModuleDict:
        """Put the deltas on; returns all that is trained. Before this, the decoder is the base model's."""
        self.decoder.set_attn_implementation(kernels.NAME)
        kernels.freeze_norms(self.decoder)
        self.deltas = lowrank.attach(self.decoder, self.rank, self.seed)
        if self.start is not None:
            self.own_tower = export.load(self.start, self.eyes, self.deltas)
        deltas = {name.replace(".", "/"): delta for name, delta in self.deltas.items()}
        return nn.ModuleDict({"eyes": self.eyes, "aids": self.aids, "deltas": nn.ModuleDict(deltas)})

    def read(
        self,
        data: Pictures,
        packed: Packed,
        rows: np.ndarray,
        visible: np.ndarray,
        everything: bool = False,
        search: kernels.Search | None = None,
    ) -> Any:
        """The decoder's output over pictures and texts."""
        opening = F.embedding(torch.tensor(self.prompts.opening), self.table).expand(len(rows), -1, -1)
        seen = data.seen(rows, visible, self.projector).to(DTYPE)
        seen[torch.from_numpy(visible == BETWEEN)] = self.table[self.prompts.ids("\n")[0]]
        return self.decoder(
            inputs_embeds=torch.cat([opening, seen, F.embedding(packed.ids, self.table)], dim=1),
            position_ids=packed.positions,
            attention_mask=packed.mask,
            use_cache=False,
            output_hidden_states=everything,
            search=search,
        )

    def read_text(self, opening: list[int], packed: Packed) -> Any:
        """The decoder's output over texts behind the same opening, without a picture."""
        ids = torch.cat([torch.tensor([opening]), packed.ids], dim=1)
        return self.decoder(
            inputs_embeds=F.embedding(ids, self.table),
            position_ids=packed.positions,
            attention_mask=packed.mask,
            use_cache=False,
        )

    def logits(self, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
        return (hidden.flatten(0, 1)[packed.at] @ self.table.T).float()

    def loss(self, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
        each = F.cross_entropy(self.logits(hidden, packed), packed.goal, reduction="none")
        return (each * packed.weight).sum() / packed.weight.sum()
