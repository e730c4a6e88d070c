"""Train the bundled model from scratch.

    python benchmarks/train_bundled.py --out runs/bundled

Everything is rendered and trained here; nothing is downloaded. A run that was stopped goes on where it was
when the same command is given again. At the end `--out` holds `model/` (what `bundled.MODEL_PATH` takes) and
`log.jsonl` (the learning curves).

Stages: "tower" teaches vision tower, projector and word embeddings to name what every patch shows; they are
then frozen. "seed" trains a language model of few layers on captions, then on questions, while it sees few
patches, which is cheap; "grown" puts new layers on top; "whole" shows it all 576 patches, as they will be in use.

Two aids are taken away before the end. The tokens of a question are to bring to mind what they mean ("thoughts"):
a name its object, the end of a question the neighbour or the number asked for. And in the first half of "grown"
some heads must find the neighbour asked about ("search"); the loss leaves open which heads, of which layers.
`--no-search` trains without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training import blueprint, decoder, tower
from training.data import KIND_NAMES, PATCHES, Scenes, Texts, make
from training.optim import Optimizer
from training.plan import Plan, Stage, autocast
from training.run import Run

from sparsesight.methods import SparseVLM
from sparsesight.scenes.dataset import SPLITS
from sparsesight.scenes.scenes import COLORS, LETTERS, SHAPES, SINGLE_OBJECT, SIZES

TOWER_SEED = 1_000_000  # scenes of the first stage; those of the second are the split "train"
QUESTIONS = 64  # a scene
HARD = [KIND_NAMES.index(kind) for kind in ("count", "neighbor", "compare")]


def ids_of(words: Iterable[str]) -> list[int]:
    return [blueprint.WORD_ID[word] for word in words]


# Groups of words of which one is true of an object.
GROUPS = {"shape": ids_of(SHAPES), "color": ids_of(COLORS)}
GROUPS |= {"column": ids_of(blueprint.COLUMNS), "row": ids_of(blueprint.ROWS)}


class Training:
    """The model, the data and the stages of one run."""

    def __init__(self, plan: Plan, run: Run, device: str, workers: int, seed: int) -> None:
        self.plan, self.run, self.device, self.workers, self.seed = plan, run, device, workers, seed
        self.model: Any = blueprint.build_model(
            plan.width, plan.stages[0].layers, plan.tower_layers, seed
        ).to(device)
        self.aids = tower.Aids(plan.width).to(device)
        self.val = make(SPLITS["val"].first_seed, plan.val_scenes, QUESTIONS, workers)

    def all(self) -> None:
        self.train_tower()
        blueprint.tell_apart(self.model, self.visual_tokens(self.val).float().norm(dim=-1).mean().item())
        # The language model learns on the visual tokens that the shipped file gives.
        bf16_round(self.model)
        scenes = make(SPLITS["train"].first_seed, self.plan.scenes, QUESTIONS, self.workers)
        train, val = self.visual_tokens(scenes), self.visual_tokens(self.val)
        scenes.pixels = scenes.pixels[:, :0]
        for stage in self.plan.stages:
            if stage.layers > len(self.model.model.language_model.layers):
                self.model = blueprint.grow(self.model, stage.layers)
            self.train_decoder(stage, scenes, train, val)

    def draw(self, stage: int, step: int) -> np.random.Generator:
        """Random numbers of one step, so that a resumed run draws what an unbroken one does."""
        return np.random.default_rng([self.seed, stage, step])

    # Stage one

    def train_tower(self) -> None:
        plan, model, aids = self.plan, self.model, self.aids
        parts = nn.ModuleList(
            [model.model.vision_tower, model.model.multi_modal_projector, model.get_input_embeddings(), aids]
        )
        named = [*model.named_parameters(), *aids.named_parameters()]
        ours = {id(weight) for weight in parts.parameters()}
        chosen = [(name, weight) for name, weight in named if id(weight) in ours]
        tower.tie_other_words(
            model.get_input_embeddings(), [blueprint.WORD_ID[word] for word in blueprint.CONTENT]
        )
        optimizer = Optimizer(chosen, plan.tower_steps, 3e-3, 0.6, matrix_rate=0.02)
        if not self.run.finished("tower"):
            scenes = make(TOWER_SEED, plan.tower_scenes, 1, self.workers)

        def loss(step: int) -> torch.Tensor:
            rows = np.sort(self.draw(1, step).choice(len(scenes), plan.tower_batch, replace=False))
            return tower.loss(model, aids, self.pixels(scenes, rows), scenes, rows)[0]

        self.run.train("tower", parts, optimizer, loss, self.patch_accuracy)

    def pixels(self, scenes: Scenes, rows: Any) -> torch.Tensor:
        return torch.from_numpy(scenes.pixels[rows]).to(self.device)

    def patch_accuracy(self) -> dict[str, Any]:
        """Of the patches that an object owns, how many are given its shape, colour, size and letter."""
        groups = GROUPS | {name: ids_of(words) for name, words in (("size", SIZES), ("letter", LETTERS))}
        hits: dict[str, list[torch.Tensor]] = {name: [] for name in groups}
        for first in range(0, len(self.val), 16):
            rows = np.arange(first, min(first + 16, len(self.val)))
            _, logits = tower.loss(self.model, self.aids, self.pixels(self.val, rows), self.val, rows)
            words = torch.from_numpy(self.val.words[rows]).long().to(self.device)
            true = torch.zeros_like(logits).scatter_(-1, words, 1.0)
            for name, group in groups.items():
                ids = torch.tensor(group, device=self.device)
                has = true[..., ids].any(-1)
                hits[name].append((logits[..., ids].argmax(-1) == true[..., ids].argmax(-1))[has].float())
        scores = {name: round(torch.cat(hit).mean().item(), 4) for name, hit in hits.items()}
        return scores | {"raters": round(self.content_raters(), 4)}

    def content_raters(self) -> float:
        """Of the first questions about every fourth scene, the share with a word of content among the raters."""
        found, asked = [], self.val.questions
        content = torch.tensor([blueprint.WORD_ID[word] for word in blueprint.CONTENT])
        for row in range(0, len(self.val), 4):
            visual = tower.visual_tokens(self.model, self.pixels(self.val, [row]))[0]
            for slot in range(16):
                ids = torch.from_numpy(asked.tokens[row, slot, : asked.given[row, slot]].astype(np.int64))
                words = self.model.get_input_embeddings()(ids.to(self.device))
                everything = [
                    torch.ones(1, len(x), dtype=torch.bool, device=x.device) for x in (visual, words)
                ]
                rater = SparseVLM().select_raters(visual[None], words[None], *everything)[0].cpu()
                found.append(torch.isin(ids[rater], content).any().item())
        return float(np.mean(found))

    # Stage two

    @torch.inference_mode()
    def visual_tokens(self, scenes: Scenes) -> torch.Tensor:
        """The projected visual tokens of every scene, on the CPU: float16 [scenes, PATCHES, width]."""
        parts = []
        for first in range(0, len(scenes), 20):
            rows = np.arange(first, min(first + 20, len(scenes)))
            parts.append(tower.visual_tokens(self.model, self.pixels(scenes, rows)).half().cpu())
        return torch.cat(parts)

    def train_decoder(
        self, stage: Stage, scenes: Scenes, tokens: torch.Tensor, val_tokens: torch.Tensor
    ) -> None:
        plan, model = self.plan, self.model
        text = model.model.language_model
        model.set_attn_implementation("eager" if stage.visible < PATCHES else "sdpa")
        decoder_parts = nn.ModuleList([text.layers, text.norm, model.lm_head])
        model.requires_grad_(False)
        decoder_parts.requires_grad_(True)
        chosen = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        optimizer = Optimizer(chosen, stage.steps, stage.rate, stage.decay)
        closing = blueprint.WORD_ID["</s>"]
        number = 2 + plan.stages.index(stage)
        last_search = [0.0]

        def loss(step: int) -> torch.Tensor:
            rng = self.draw(number, step)
            rows = np.sort(rng.choice(len(scenes), stage.pictures, replace=False))
            captions = step < stage.captions_first or rng.random() < stage.captions
            texts, few = (scenes.captions, 26) if captions else (scenes.questions, plan.per_picture)
            draw = rng.exponential(size=(stage.pictures, texts.kind.shape[1]))
            if not captions:
                draw[np.isin(texts.kind[rows], HARD)] /= stage.hard
            slots = np.argsort(draw, axis=1)[:, :few]
            packed, shown = self.batch(scenes, texts, tokens, rows, slots, stage.visible, rng)
            done = step / stage.steps
            search, weight = torch.zeros((), device=self.device), stage.search * max(0.0, 1 - 2 * done)
            with autocast(stage, self.device):
                if weight and not captions:
                    predicted, search = decoder.logits_and_search(model, shown, packed)
                else:
                    predicted = decoder.logits(model, shown, packed)
            if captions:
                return decoder.caption_loss(predicted, packed, closing)
            first, last = stage.thoughts
            last_search[0] = search.item()
            return decoder.loss(predicted, packed, closing, first + (last - first) * done) + weight * search

        def evaluate() -> dict[str, Any]:
            right: dict[str, list[bool]] = {name: [] for name in KIND_NAMES}
            thoughts: dict[str, list[bool]] = {}
            rng = self.draw(1, 0)
            for first in range(0, len(self.val), 4):
                rows = np.arange(first, min(first + 4, len(self.val)))
                slots = np.broadcast_to(np.arange(plan.per_picture), (len(rows), plan.per_picture))
                packed, shown = self.batch(
                    self.val, self.val.questions, val_tokens, rows, slots, stage.visible, rng
                )
                predicted = decoder.logits(model, shown, packed)
                for kind, hits in decoder.right(predicted, packed).items():
                    right[kind] += hits
                for key, hits in decoder.thought(predicted, packed, GROUPS).items():
                    thoughts.setdefault(key, []).extend(hits)
            everything = [hit for hits in right.values() for hit in hits]
            single = [hit for kind in SINGLE_OBJECT for hit in right[kind]]
            scores = {"all": everything, "single": single, **right}
            scores |= {key: hits for key, hits in thoughts.items() if key.startswith(("neighbor", "compare"))}
            shares = {name: round(float(np.mean(hits)), 4) for name, hits in scores.items() if hits}
            return {"search": round(last_search[0], 4), **shares}

        self.run.train(stage.name, decoder_parts, optimizer, loss, evaluate)

    def batch(
        self,
        scenes: Scenes,
        texts: Texts,
        tokens: torch.Tensor,
        rows: np.ndarray,
        slots: np.ndarray,
        visible: int,
        rng: np.random.Generator,
    ) -> tuple[decoder.Packed, torch.Tensor]:
        patches = decoder.choose(scenes, rows, visible, rng)
        shown = tokens[torch.from_numpy(rows)[:, None], torch.from_numpy(patches)].float().to(self.device)
        return decoder.pack(scenes, texts, rows, slots, patches), shown


@torch.no_grad()
def bf16_round(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; an unfinished run there goes on"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2, help="processes that render scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-search", action="store_true", help="no loss on attention at all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = Plan()
    if arguments.no_search:
        plan = replace(plan, stages=tuple(replace(stage, search=0.0) for stage in plan.stages))
    training = Training(
        plan, Run(arguments.out, every=100), arguments.device, arguments.workers, arguments.seed
    )
    training.all()
    folder = arguments.out / "model"
    training.model.to(torch.bfloat16).save_pretrained(folder)
    blueprint.build_processor().save_pretrained(folder)
    print(f"saved {folder}")


if __name__ == "__main__":
    main()
