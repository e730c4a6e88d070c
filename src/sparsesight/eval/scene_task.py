"""The bundled model's scenes as tasks of a sweep: a benchmark that needs no download.

Splits are those of :mod:`sparsesight.scenes.dataset`; a split's name and the version of the scenes define the questions
exactly. The bootstrap resamples whole scenes, since the questions about a scene share its picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..checkpoint_limits import apply_template, check_pixels, making_prompt
from ..hf.loading import Loaded
from ..methods import Method
from ..scenes.dataset import Example, examples
from ..scenes.scenes import KINDS, SINGLE_OBJECT, VERSION
from .image_task import PictureQuestions, Scorer, exact, pictures_of
from .prompts import Prompts
from .records import Item
from .task import Answering

ANSWER_TOKENS = 3  # two words and the end

ALL, SINGLE = "all", "single-object"
NO_OBJECT = "no object"
GROUPS = (ALL, SINGLE, *KINDS, "small", "large", NO_OBJECT)


def groups(example: Example) -> tuple[str, ...]:
    """The groups that an example counts in, of `GROUPS`: its kind, the size of the object it is about, ..."""
    kind = example.question.kind
    single = (SINGLE,) if kind in SINGLE_OBJECT else ()
    return (ALL, *single, kind, NO_OBJECT if example.size == "none" else example.size)


def rests_on(example: Example) -> str:
    """How many objects the answer rests on."""
    count = len(example.question.objects)
    return (
        f"rests on {('none', 'one object', 'two objects')[count] if count < 3 else 'three objects or more'}"
    )


def _tags(example: Example) -> tuple[str, ...]:
    """The groups that a question is reported in."""
    own = [name for name in groups(example) if name != ALL]
    alone = [f"one {example.size} object"] if SINGLE in own else []
    return (*own, *alone, rests_on(example))


def scene_items(split: str, limit: int | None = None) -> list[Item]:
    """The questions of a split of :mod:`sparsesight.scenes.dataset`; those about one scene are a unit.

    Args:
        split: its name.
        limit: number of questions, the first ones; default: all.
    """
    found: list[Item] = []
    for example in examples(split):
        if limit is not None and len(found) >= limit:
            break
        found.append(
            Item(
                id=example.id,
                question=example.question.text,
                target=example.question.answer,
                unit=f"{VERSION}/{example.scene.seed}",
                tags=_tags(example),
                request=example.image,
            )
        )
    return found


class SceneQuestions(PictureQuestions):
    """Questions about scenes for a LLaVA; a :class:`~.task.Task` with right or wrong answers.

    Every picture is encoded once, however many questions and methods there are; where a method looks at the vision
    tower, once for each batch of its own. Arguments are those of :class:`~.image_task.PictureQuestions`.
    """

    def __init__(
        self,
        task: str,
        items: Sequence[Item],
        loaded: Loaded,
        prompts: Prompts,
        *,
        max_new_tokens: int = ANSWER_TOKENS,
        latency: bool = False,
        trim_early_layers: bool = False,
        scorer: Scorer = exact,
    ) -> None:
        super().__init__(
            task,
            items,
            loaded,
            prompts,
            max_new_tokens=max_new_tokens,
            latency=latency,
            trim_early_layers=trim_early_layers,
            scorer=scorer,
        )
        self._processor = loaded.processor
        self._features: dict[int, Any] = {}  # of each picture, what the decoder is given
        self._reuse = True

    @staticmethod
    def suits(loaded: Loaded, prompts: Prompts) -> bool:
        """Whether pictures can be encoded separately from questions: a LLaVA whose processor has a chat template."""
        own = prompts.setting.name == "own" and getattr(loaded.processor, "chat_template", None)
        return bool(own) and loaded.model.config.model_type == "llava"

    @contextmanager
    def answering(self, method: Method | None) -> Iterator[Answering]:
        """See :class:`~.task.Task`."""
        self._reuse = method is None or not method.requires_vision
        with super().answering(method) as answer:
            yield answer

    def _inputs(self, items: Sequence[Item]) -> Any:
        import torch
        from transformers import BatchFeature
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        with torch.inference_mode():
            features: Any = self._encoded([one for item in items for one in pictures_of(item.request)])
        image = self._processor.image_token * len(features[0])
        texts = [self._text(item).replace(self._processor.image_token, image) for item in items]
        ids = self._processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        # What the decoder would have got from pixel values.
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        return BatchFeature({**ids, "mm_encoder_outputs": encoded})

    def _text(self, item: Item) -> str:
        shown = [{"type": "image"} for _ in pictures_of(item.request)]
        content = [*shown, {"type": "text", "text": item.question}]
        turns = [{"role": "user", "content": content}]
        return str(apply_template(self._processor, turns))

    def _encoded(self, pictures: Sequence[Any]) -> list[Any]:
        """What the decoder is given of each picture; a method that looks at the tower must see it run."""
        known = self._features if self._reuse else {}
        new = list({id(p): p for p in pictures if id(p) not in known}.values())
        if new:
            with making_prompt():
                pixels = self._processor.image_processor(new, return_tensors="pt")["pixel_values"]
            check_pixels(pixels, len(new))
            pixels = pixels.to(self._model.device, self._model.dtype)
            encoded = self._model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            known.update(zip(map(id, new), encoded, strict=True))
        return [known[id(picture)] for picture in pictures]
