"""The stages of a run: what is asked at each step, and how well held-out questions are answered."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsesight.bundled.smol.assemble import assemble
from sparsesight.bundled.smol.base import Base
from sparsesight.errors import SparseSightError
from sparsesight.scenes.scenes import KINDS, LETTERS, SINGLE_OBJECT

from .. import optim, together
from ..decoder import choose
from ..run import Run
from . import batch, collage, export, eyes, lowrank, naming, projector, replay
from .album import Album
from .pictures import KIND_NAMES, Pictures
from .plan import Optimizer, Plan, Stage
from .reader import DTYPE, Reader


class Training:
    """The model, the data and the stages of one run."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        base: Base,
        workers: int,
        seed: int,
        start: Path | None = None,
        text: bool = True,
    ) -> None:
        """`start` is a file of deltas and a projector to go on from; without it the base model is all there is.

        Deltas of more ranks than the plan's keep them all, in training and in what ships. Without `text` only the eyes
        can be trained.

        Raises:
            SparseSightError: the plan trains a tower, which has to keep what a model makes of shapes, without a start;
                or the start holds no deltas.
        """
        if plan.eyes_steps and start is None:
            raise SparseSightError(
                "start=None is not possible with this plan: name deltas of a model that knows shapes"
            )
        if start is not None:
            known = export.rank_of(start)
            if known > plan.rank:
                print(f"deltas of rank {known}, as in {start}, instead of the plan's {plan.rank}")
            plan = replace(plan, rank=max(plan.rank, known), shipped_rank=max(plan.shipped_rank, known))
        self.plan, self.run, self.base, self.workers, self.seed = plan, run, base, workers, seed
        self.reader = Reader(base, plan.rank, seed, start)
        self.prompts = self.reader.prompts
        # The base model's own answers, so before there are deltas
        if text:
            with together.first_alone():
                self.replay = replay.load_or_make(
                    run.folder / "replay.pt", self.reader.language_model, self.prompts
                )
        self.parts, self.deltas = self.reader.attach(), self.reader.deltas
        self.started, self.eyes_ready = start is not None, False
        self.album = Album(plan, run.folder, workers, self.reader)
        self.losses: dict[str, float] = {}
        self.train: dict[str, Pictures]
        self.val: dict[str, Pictures]

    def load(self, stage: Stage) -> None:
        """What a stage asks about."""
        with together.first_alone():
            self.train, self.val = (self.album.shown(stage, split) for split in ("train", "val"))

    def train_eyes(self) -> None:
        """The stage of the tower and the projector, if the plan has one."""
        if not self.plan.eyes_steps or self.eyes_ready:
            return
        if together.processes() > 1 and not self.run.finished("eyes"):
            raise SparseSightError(
                "several processes cannot train the eyes: train them with one, by --only eyes, and then go on"
            )
        self.eyes_ready = True
        seen, plan, folder = self.reader.eyes, self.plan, self.run.folder
        self.first_projector = deepcopy(seen.projector)
        before = eyes.Eyes(seen.tower, self.first_projector)
        seen.tower = eyes.widened(seen.tower, plan.eyes_inner)
        self.reader.own_tower = True
        outs = eyes.ReadOuts(seen.tower.config.hidden_size)
        parts = nn.ModuleDict({"eyes": seen, "outs": outs})
        if self.run.finished("eyes"):  # no lesson is needed
            parts.load_state_dict(torch.load(folder / "eyes.pt", map_location="cpu")["modules"])
            return
        crowd = collage.stored(folder, plan.collages, plan.collage_lines, self.workers)
        known, unknown = (
            eyes.Lesson(
                before,
                self.prompts,
                self.reader.table.float(),
                self.album.stored("shapes", split),
                self.album.stored("mixed", split),
                crowd,
                shapes,
            )
            for split, shapes in (("train", plan.eyes_shapes), ("val", plan.scored))
        )
        seen.requires_grad_(True)
        optimizer = optim.Optimizer(
            parts.named_parameters(), plan.eyes_steps, plan.eyes_rate, 0.5, plan.eyes_matrix_rate
        )
        self.losses = {}
        self.run.train(
            "eyes",
            parts,
            optimizer,
            eyes.loss_of(parts, known, plan.eyes_pictures, self.seed, plan.eyes_steps, self.note),
            lambda: {**self.noted(), "val": eyes.scores(parts, unknown, plan.scored)},
        )
        seen.requires_grad_(False)

    def noted(self) -> dict[str, float]:
        """The running means of the parts of the loss."""
        return {f"{name} loss": round(loss, 4) for name, loss in self.losses.items()}

    def all(self) -> None:
        for stage in self.plan.stages:
            self.only(stage.name)
        if not together.number():
            self.export()

    def only(self, name: str) -> None:
        """A stage, or "eyes"; those before it have to be finished."""
        if name == "eyes":
            return self.train_eyes()
        number, stage = next(pair for pair in enumerate(self.plan.stages, 1) if pair[1].name == name)
        if not stage.ideal:
            self.train_eyes()
        if not self.run.finished(name):
            self.load(stage)
        first = self.run.folder / f"{self.plan.stages[0].name}.pt"
        if not first.exists() and (self.plan.refit or not self.started):
            left = projector.fit(
                self.reader.projector,
                self.train["shapes"],
                self.reader.table.float(),
                self.plan.fit_scenes,
                self.plan.fit_steps,
                self.seed,
                self.plan.middle,
                anew=not self.started,
            )
            self.run.log({"stage": "projector", "unexplained": round(left, 4)})
        if not stage.ideal and self.plan.eyes_steps and self.plan.fit_steps and not self.fitted(stage):
            self.fit_seen()
        self.train_stage(number, stage)

    def fitted(self, stage: Stage) -> bool:
        """Whether a stage on what the tower sees has begun, with the projector as it was fitted to that."""
        seen = [one.name for one in self.plan.stages if not one.ideal]
        begun = seen[: seen.index(stage.name) + 1]
        return any((self.run.folder / f"{name}.pt").exists() for name in begun)

    def fit_seen(self) -> None:
        """Fit the projector to the tower as it was left: what its rates did at the same time is behind."""
        own, plan, scenes = projector.own_part(self.reader.table.float()), self.plan, self.plan.fit_scenes
        reader, folder = self.reader, self.run.folder
        known = torch.load(folder / "train-before.pt")[:scenes].float()
        shapes = self.train["shapes"]
        chosen = projector.counted(shapes.owner[:scenes], self.seed)
        with torch.no_grad():
            letters = naming.lettered(shapes.owner[:scenes], shapes.objects)[chosen]
            kept = shapes.features[:scenes][chosen], self.first_projector(known[chosen]), letters
        seen = torch.load(folder / "train-mixed-features.pt")
        told = naming.patches(self.album.some_seen("train"), seen, reader, own, self.seed)
        crowd = collage.stored(folder, plan.collages, plan.collage_lines, self.workers)
        icons = naming.crowd(folder, crowd, plan.fit_collages, reader.eyes.tower)
        words = [naming.directions(of, reader, own) for of in (collage.NAMES, LETTERS)]
        left = naming.fit(reader.projector, told, icons, kept, *words, plan.fit_steps, self.seed)
        self.run.log({"stage": "projector", **left})

    def restore(self) -> dict[str, Any]:
        """Take the newest checkpoint as it is; returns its stage and how many steps of it are done.

        Raises:
            SparseSightError: if nothing was trained yet.
        """
        for stage in reversed(self.plan.stages):
            checkpoint = self.run.folder / f"{stage.name}.pt"
            if checkpoint.exists():
                if not stage.ideal:
                    self.train_eyes()
                saved = torch.load(checkpoint, map_location="cpu")
                self.parts.load_state_dict(saved["modules"])
                return {"stage": stage.name, "step": saved["step"], "processor": round(saved["processor"], 1)}
        raise SparseSightError(f"{self.run.folder} holds no checkpoint yet: train first, without --export")

    def export(self) -> None:
        """Write what was trained, and the whole model."""
        delta = self.run.folder / "delta.safetensors"
        export.save(delta, self.reader.eyes, self.deltas, self.plan.shipped_rank, self.reader.own_tower)
        assemble(self.base, delta, self.run.folder / "model")

    def train_stage(self, number: int, stage: Stage) -> None:
        weights = [weight for delta in self.deltas.values() for weight in (delta.a, delta.b)]
        groups = [(weights, stage.rate)]
        aids = self.reader.aids
        groups += [(list(aids.heads.parameters()), 2e-3), ([aids.mixture], 2e-2)]
        optimizer = Optimizer(groups, stage.steps, stage.decay)

        def loss(step: int) -> torch.Tensor:
            lowrank.merge_all(self.deltas)
            source = stage.source(np.random.default_rng([self.seed, number, step]))  # of all processes
            rng = np.random.default_rng([self.seed, number, step, together.number()])
            total = self.seen(stage, source, rng, step / stage.steps)
            if step % stage.replay_every == 0:
                replayed = self.replayed(rng)
                self.note("replay", replayed)
                total = total + replayed
            return total

        def evaluate() -> dict[str, Any]:
            lowrank.merge_all(self.deltas)
            return {**self.noted(), **self.scores(stage)}

        self.losses = {}
        self.run.train(stage.name, self.parts, optimizer, loss, evaluate)
        lowrank.merge_all(self.deltas)

    def seen(self, stage: Stage, source: str, rng: np.random.Generator, done: float) -> torch.Tensor:
        """The loss of one batch of questions about pictures of one source."""
        data = self.train[source]
        rows = np.sort(rng.choice(len(data), stage.pictures, replace=False))
        slots = self.draw(stage, data, rows, rng)
        visible = choose(data, rows, stage.shown(data.span), rng)  # type: ignore[arg-type]
        packed, thoughts, search = batch.questions(data, rows, slots, visible, DTYPE)
        thought_weight = stage.thoughts * max(0.0, 1 - done / stage.thoughts_until)
        left = max(0.0, 1 - done / stage.search_until)
        searching = bool(left) and bool(stage.search or stage.counting)
        out = self.reader.read(
            data, packed, rows, visible, bool(thought_weight), search if searching else None
        )
        total = self.reader.loss(out.last_hidden_state, packed)
        self.note(f"{source} answers", total)
        if thought_weight:
            aid = self.reader.aids.loss(out.hidden_states, thoughts)
            self.note("thoughts", aid)
            total = total + thought_weight * aid
        if searching:
            for name, weight, aid in (
                ("search", stage.search, search.loss()),
                ("counting", stage.counting, search.counting_loss()),
            ):
                if weight:
                    self.note(name, aid)
                    total = total + weight * left * aid
        return total

    def draw(
        self, stage: Stage, data: Pictures, rows: np.ndarray, rng: np.random.Generator
    ) -> list[list[int]]:
        """Which questions to ask about each picture, kinds as likely as the stage says."""
        kinds = data.kinds[rows]
        likelier = np.array([stage.likelier.get(kind, 1.0) for kind in KIND_NAMES])
        late = rng.exponential(size=kinds.shape) / likelier[kinds]
        late[kinds < 0] = np.inf  # there is no such question
        asked = np.minimum((kinds >= 0).sum(1), stage.questions)
        return [order[:n].tolist() for order, n in zip(np.argsort(late, axis=1), asked, strict=True)]

    def note(self, name: str, loss: torch.Tensor | float) -> None:
        """Keep a running mean of a part of the loss for the log."""
        value = loss.item() if isinstance(loss, torch.Tensor) else loss
        self.losses[name] = 0.95 * self.losses.get(name, value) + 0.05 * value

    def replayed(self, rng: np.random.Generator) -> torch.Tensor:
        """The loss of a few plain instructions."""
        opening = self.replay.opening
        drawn = [self.replay.draw(rng, self.plan.replayed)]
        packed = batch.pack(drawn, len(opening), None, DTYPE, self.prompts.end)
        return self.reader.loss(self.reader.read_text(opening, packed).last_hidden_state, packed)

    def scores(self, stage: Stage) -> dict[str, Any]:
        """Share of held-out questions whose answer is likeliest, token by token given the ones before."""
        right: dict[str, list[bool]] = {kind: [] for kind in KIND_NAMES}
        rng = np.random.default_rng(0)
        for source in stage.shares:
            data = self.val[source]
            for first in range(0, min(len(data), self.plan.scored), stage.pictures):
                rows = np.arange(first, min(first + stage.pictures, len(data)))
                slots = [list(range(min(stage.questions, len(data.questions[row])))) for row in rows]
                visible = choose(data, rows, stage.shown(data.span), rng)  # type: ignore[arg-type]
                packed, _, _ = batch.questions(data, rows, slots, visible, DTYPE)
                out = self.reader.read(data, packed, rows, visible)
                predicted = self.reader.logits(out.last_hidden_state, packed).argmax(-1)
                hits = (predicted == packed.goal).numpy()
                for number, kind in enumerate(packed.kind):
                    right[KIND_NAMES[kind]].append(bool(hits[packed.question == number].all()))
        groups = {
            "all": [kind for kind in KIND_NAMES if kind in KINDS],
            "single": SINGLE_OBJECT,
            "mixed": [kind for kind in KIND_NAMES if kind not in KINDS],
        }
        told = {name: [hit for kind in kinds for hit in right[kind]] for name, kinds in groups.items()}
        return {name: round(float(np.mean(hits)), 4) for name, hits in {**told, **right}.items() if hits}
