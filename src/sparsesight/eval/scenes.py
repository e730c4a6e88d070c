"""The rendered scenes as tasks: the benchmark that needs no download, for the bundled model.

A split and the version of the scenes say exactly what is asked. Questions are reported by kind, by how many objects
their answer rests on and, where that is one, by its size. A scene is drawn as a whole when intervals are made, since its
questions share a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..bundled import scenes
from ..bundled.asking import SINGLE_OBJECT
from ..bundled.dataset import SPLITS, Example, examples
from ..commands.loading import Loaded
from ..errors import SparseSightError
from ..methods import Method
from .costs import batch_costs
from .pictures import PictureQuestions
from .samples import Answer, Answering, Item

PREFIX = "scenes-"
TASKS = tuple(PREFIX + name for name in SPLITS if name not in ("train", "val"))
ANSWER_TOKENS = 3  # two words and the end


def scene_items(split: str, limit: int | None = None, workers: int = 1) -> list[Item]:
    """The questions of a split in their fixed order, each with its picture.

    Args:
        split: one of :data:`~sparsesight.bundled.dataset.SPLITS`.
        limit: only the questions about the first scenes, as many as have so many questions or just more.
        workers: processes that render.

    Raises:
        SparseSightError: no such split.
    """
    items = []
    for example in examples(split, workers=workers):
        if limit is not None and len(items) >= limit and items[-1].unit != _unit(example):
            break
        items.append(
            Item(
                id=example.id,
                question=example.question.text,
                target=example.question.answer,
                unit=_unit(example),
                tags=_tags(example),
                request=example.image,
            )
        )
    return items


def _unit(example: Example) -> str:
    return f"scene {example.scene.seed}"


def _tags(example: Example) -> tuple[str, ...]:
    """The groups that a question is reported in."""
    kind, objects = example.question.kind, len(example.question.objects)
    if kind not in SINGLE_OBJECT:
        return (kind, f"rests on {objects if objects < 3 else '3 or more'} objects" if objects else "rests on none")
    return (kind, "rests on one object", f"one {example.size} object")


class SceneQuestions(PictureQuestions):
    """A split of the scenes; a :class:`~.samples.Task` with right or wrong answers.

    Every picture is encoded once, however many questions and methods there are; where a method looks at the vision
    tower, once for each batch of its own.

    Args:
        task: one of :data:`TASKS`.
        loaded: a LLaVA that was trained on scenes, such as the bundled model.
        limit: see :func:`scene_items`.
        workers: processes that render.
        latency: measure prefills.

    Raises:
        SparseSightError: no such task.
    """

    def __init__(
        self, task: str, loaded: Loaded, *, limit: int | None = None, workers: int = 1, latency: bool = False
    ) -> None:
        if task not in TASKS:
            raise SparseSightError(f"task {task!r} does not exist: choose one of {', '.join(TASKS)}")
        super().__init__(
            f"{task}-v{scenes.VERSION}",
            scene_items(task.removeprefix(PREFIX), limit, workers),
            loaded,
            max_new_tokens=ANSWER_TOKENS,
            latency=latency,
        )
        self._processor = loaded.processor
        self._features: dict[int, Any] = {}  # of each picture, what the decoder is given

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        """See :class:`~.samples.Task`."""
        self._reuse = method is None or not method.reads_vision
        with super().answering(method) as answer:
            yield answer

    def _answer(self, items: Sequence[Item], run: Any, spent: Callable[[], float | None]) -> list[Answer]:
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        model, tokenizer = self._model, self._processor.tokenizer
        with torch.inference_mode():
            features: Any = self._encoded([item.request for item in items])
            image = self._processor.image_token * len(features[0])
            texts = [f"USER: {image}\n{item.question} ASSISTANT:" for item in items]
            inputs = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
            output = model.generate(
                **inputs,
                mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
                pad_token_id=tokenizer.pad_token_id,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
            )
        ms = spent()
        costs = batch_costs(self._shape, self._parts.visual_ids, inputs, run)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        share = None if ms is None else ms / len(items)
        return [Answer(text.strip(), cost, share) for text, cost in zip(texts, costs, strict=True)]

    def _encoded(self, pictures: Sequence[Any]) -> list[Any]:
        """What the decoder is given of each picture; a method that looks at the tower must see it run."""
        known = self._features if self._reuse else {}
        new = list({id(p): p for p in pictures if id(p) not in known}.values())
        if new:
            pixels = self._processor.image_processor(new, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self._model.device, self._model.dtype)
            encoded = self._model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            known.update(zip(map(id, new), encoded, strict=True))
        return [known[id(picture)] for picture in pictures]
