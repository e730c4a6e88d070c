"""The text tower that a vision tower was trained with: it embeds questions in the space of the patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import SparseSightError
from ..checkpoint import check_attention_of, check_whole
from ..linear import is_quantised

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class TextTower:
    """The text tower and projections of the CLIP whose vision tower a vision-language model uses.

    For LLaVA-1.5 the CLIP is ``openai/clip-vit-large-patch14-336``::

        tower = TextTower.from_pretrained("openai/clip-vit-large-patch14-336", processor.tokenizer)
        with sparsify(model, CDPruner.published(64), text_tower=tower) as run:
            model.generate(**inputs)

    Without ``processor.tokenizer`` every call sets its questions with :func:`sparsesight.questions`. The patches are
    those of the model's own vision tower: nothing is encoded twice, and only the text tower, a normalisation and two
    projections are held in memory.

    Attributes:
        texts: embeds questions, n strings -> [n, p].
        patches: embeds rows of the layer whose output goes to the language model, [n, c] -> [n, p].
        width: c, of the vision tower.
        decode: token ids of a prompt's text -> the question in it; None if every call sets its questions.
    """

    texts: Callable[[Sequence[str]], Float[Tensor, "n p"]]
    patches: Callable[[Float[Tensor, "n c"]], Float[Tensor, "n p"]]
    width: int
    decode: Callable[[list[int]], str] | None = None

    @classmethod
    def from_clip(cls, clip: Any, tokenizer: Any, prompt_tokenizer: Any = None) -> TextTower:
        """Of a ``CLIPModel``.

        A question's embedding is its projected text embedding, scaled to unit length. A question longer than the
        tower's window (75 tokens for CLIP) is split into parts, whose embeddings are averaged. A patch is embedded as
        CLIP embeds its class token: by the vision tower's last normalisation, then the projection.

        Args:
            clip: a ``transformers.CLIPModel``; it runs on the device and in the dtype of its weights.
            tokenizer: of the text tower.
            prompt_tokenizer: of the vision-language model. With it the question is the text after the last picture of
                each prompt without special tokens; template text after the question remains in it.

        Raises:
            SparseSightError: ``clip`` has no text tower or no projections.
        """
        needed = ("text_model", "text_projection", "vision_model", "visual_projection")
        missing = [name for name in needed if not hasattr(clip, name)]
        if missing:
            raise SparseSightError(
                f"clip={type(clip).__name__} has no {missing[0]}: give a CLIPModel, with both towers and projections"
            )
        # Not the model itself: its vision tower need not stay in memory.
        text, text_projection = clip.text_model.eval(), clip.text_projection
        norm, visual_projection = clip.vision_model.post_layernorm, clip.visual_projection
        longest = clip.config.text_config.max_position_embeddings - 2
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

        def parts(question: str) -> list[list[int]]:
            ids = tokenizer(question, add_special_tokens=False)["input_ids"]
            starts = range(0, max(len(ids), 1), longest)
            return [[begin, *ids[start : start + longest], end] for start in starts]

        def texts(questions: Sequence[str]) -> Tensor:
            cut = [parts(question) for question in questions]
            rows = [part for each in cut for part in each]
            width = max(map(len, rows))
            ids = [row + [padding] * (width - len(row)) for row in rows]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            device = text_projection.weight.device
            with torch.no_grad():
                pooled = text(
                    torch.tensor(ids, device=device), torch.tensor(mask, device=device)
                ).pooler_output
                unit = torch.nn.functional.normalize(text_projection(pooled).float(), dim=-1)
            return torch.stack([x.mean(0) for x in unit.split([len(each) for each in cut])])

        def patches(rows: Tensor) -> Tensor:
            weight = visual_projection.weight
            dtype = norm.weight.dtype if is_quantised(visual_projection) else weight.dtype
            with torch.no_grad():
                embedded: Tensor = visual_projection(
                    norm(rows.to(weight.device, norm.weight.dtype)).to(dtype)
                )
            return embedded.to(rows.device)

        def decode(ids: list[int]) -> str:
            return str(prompt_tokenizer.decode(ids, skip_special_tokens=True)).strip()

        width = clip.config.vision_config.hidden_size
        return cls(texts, patches, width, None if prompt_tokenizer is None else decode)

    @classmethod
    def from_pretrained(
        cls, name: str, prompt_tokenizer: Any = None, device: torch.device | str = "cpu", **options: Any
    ) -> TextTower:
        """Of a CLIP checkpoint, a folder or a Hub id, on a device; ``options`` go to ``CLIPModel.from_pretrained``.

        Raises:
            SparseSightError: the checkpoint is of another kind of model, or lacks weights.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        config = AutoConfig.from_pretrained(name)
        check_attention_of(config, f"text tower {name!r}")
        if config.model_type != "clip":
            raise SparseSightError(
                f"text tower {name!r} is a {config.model_type!r}: give the CLIP that the model's vision "
                "tower was taken from, such as openai/clip-vit-large-patch14-336 for LLaVA-1.5"
            )
        options = {"use_safetensors": True, **options}  # a pickle can run any code when it is loaded
        both: Any = CLIPModel.from_pretrained(name, output_loading_info=True, **options)
        clip, found = both
        check_whole(found, f"text tower {name!r}")
        return cls.from_clip(clip.to(device), AutoTokenizer.from_pretrained(name), prompt_tokenizer)


def questions_of(
    tower: TextTower,
    given: Sequence[str] | None,
    ids: object,
    text: Tensor,
    samples: int | None,
    method: str,
) -> list[str]:
    """The question of each sample of a prompt, whose ``text`` [b, n] comes after its last picture.

    Args:
        tower: the text tower that embeds them.
        given: questions from the caller, one per sample before beams are expanded.
        ids: token ids of the prompt [b, n], if there are any.
        text: boolean.
        samples: number of samples before beams are expanded, if ``generate()`` runs.
        method: the method that needs them, for the message.

    Raises:
        SparseSightError: a question is not known, or the number of questions is not the number of samples.
    """
    batch = len(text)
    if given is None and tower.decode is not None and isinstance(ids, Tensor) and ids.shape == text.shape:
        return [tower.decode(row[mask].tolist()) for row, mask in zip(ids, text.to(ids.device), strict=True)]
    if given is None:
        raise SparseSightError(
            f"method={method}: its text tower was given no question; put `with questions(model, [...])` "
            "around the call, or give TextTower the model's tokenizer as prompt_tokenizer"
        )
    samples = samples or batch
    if len(given) != samples:
        raise SparseSightError(
            f"questions: {len(given)} for {samples} samples; give one for each, in their order"
        )
    return [question for question in given for _ in range(batch // samples)]  # beams follow one another
