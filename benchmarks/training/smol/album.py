"""What a run has rendered, and how the tower sees it or should see it; kept in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsesight.scenes.dataset import SPLITS

from . import mixed, pictures, projector
from .pictures import Pictures
from .plan import Plan, Stage
from .reader import Reader


class Album:
    """The pictures of one run."""

    def __init__(self, plan: Plan, folder: Path, workers: int, reader: Reader) -> None:
        self.plan, self.folder, self.workers, self.reader = plan, folder, workers, reader

    def stored(self, source: str, split: str) -> dict[str, Any]:
        """What is rendered of "shapes" or "mixed", from the run's folder if it is there."""
        plan = self.plan
        n = plan.val_scenes if split == "val" else plan.scenes if source == "shapes" else plan.mixed
        if source == "mixed":
            return mixed.stored(self.folder, split, n, plan.questions, self.workers)
        first = SPLITS[split].first_seed + (plan.first_scene if split == "train" else 0)
        return pictures.made(self.folder / f"{split}.pt", first, n, plan.questions, self.workers)

    def some_seen(self, split: str) -> dict[str, Any]:
        """The mixed scenes that are shown as the tower sees them."""
        return mixed.some(self.stored("mixed", split), self.plan.kinds, self.plan.seen)

    def shown(self, stage: Stage, split: str) -> dict[str, Pictures]:
        """What a stage asks about: scenes of shapes as the tower sees them, mixed ones too or as they should look."""
        reader, eyes = self.reader, "before" if stage.ideal else "features"
        data, tower = {}, reader.eyes.tower
        for source in stage.shares:
            images = 2 if source == "pairs" else 1
            if source == "shapes":
                file = self.folder / f"{split}-{eyes}.pt"
                data[source] = pictures.shown(file, self.stored(source, split), reader.prompts, tower)
            elif stage.ideal:
                made = mixed.some(self.stored("mixed", split), self.plan.kinds)
                own = projector.own_part(reader.table.float())
                data[source] = mixed.ideal(made, reader.prompts, images, own)
            else:
                file = self.folder / f"{split}-mixed-features.pt"
                data[source] = mixed.shown(file, self.some_seen(split), reader.prompts, images, tower)
        return data
