"""What a family gives the test matrix, and what its builders share: words, pictures, clips, sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LAYERS = 6
TEXT: dict[str, Any] = {  # of most decoders' configs
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "initializer_range": 0.3,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class Sample:
    """A prompt in which <image> and <video> stand for the pictures and clips, in their order."""

    text: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[np.ndarray, ...] = ()  # uint8 [frames, height, width, 3]


@dataclass(frozen=True)
class Family:
    """One family, or one variant of it, as the matrix drives it.

    Attributes:
        name: the `model_type` of its config, with "-variant" behind it where there are several.
        build: attention implementation -> tiny random model in float32; the same weights every time.
        prompts: samples -> what `generate` takes, left-padded.
        visual: "image", or "image, video".
        inputs: "processor" if the family's own made them, else "tensors".
        decoder: what is particular about the decoder, such as "sliding window"; "" for full attention alone.
        visual_ids: token ids that stand for visual tokens in the prompts.
        layers: where the model keeps its decoder's layers.
        kinds: what each layer sees: "f" everything before, "w" a window of it, "r" what a recurrent or convolutional
            state holds of it, "t" its own token alone.
        stages: where the decoder can be pruned, if that is at fewer than three layers.
        tolerance: of logits, absolute.
        unrun: versions of transformers ("5.24") that cannot run it at all, and why.
        broken: names of checks that say nothing as transformers fails them without us, and why.
    """

    name: str
    build: Callable[[str], Any]
    prompts: Callable[[Sequence[Sample]], dict[str, Any]]
    visual: str = "image"
    inputs: str = "processor"
    decoder: str = ""
    visual_ids: tuple[int, ...] = (4,)
    layers: str = "model.language_model.layers"
    kinds: str = "ffffff"
    stages: tuple[int, ...] = ()
    tolerance: float = 1e-3
    unrun: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        version = ".".join(transformers.__version__.split(".")[:2])
        return missing(self.name) or self.unrun.get(version, "")


def missing(name: str) -> str:
    """Why a family cannot be built here, if the installed transformers is older than it; else nothing."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    known = name in CONFIG_MAPPING_NAMES or name.split("-")[0] in CONFIG_MAPPING_NAMES
    return "" if known else f"transformers {transformers.__version__} has no {name}"


def takes(model: str, argument: str) -> bool:
    """Whether this version of transformers' class `model` takes that argument, which has had other names."""
    return argument in inspect.signature(getattr(transformers, model).forward).parameters


def picture(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def clip(seed: int, frames: int = 4, width: int = 48, height: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


# One picture; two, of different sizes, with text between; none; one with little text. Then clips.
SAMPLES = (
    Sample("USER : <image> what is the red star ? ASSISTANT :", (picture(1, 60, 48),)),
    Sample(
        "USER : <image> and a <image> how many small blue ring left of the star and a red ring ? ASSISTANT :",
        (picture(2, 48, 90), picture(3)),
    ),
    Sample("USER : what is a star ? ASSISTANT :"),
    Sample("the blue <image> ring ?", (picture(4, 96, 48),)),
)
CLIPS = (
    Sample("USER : <video> what is the red star ? ASSISTANT :", videos=(clip(5),)),
    Sample(
        "USER : <image> and a <video> how many blue ring ? ASSISTANT :",
        images=(picture(6),),
        videos=(clip(7, frames=6),),
    ),
)

WORDS = """
    USER ASSISTANT : ? what is the red small star left of a blue ring and how many
""".split()  # noqa: SIM905


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Words split at blanks; `special` tokens besides <pad> <s> </s> <unk>, which come first.

    `named` become attributes, such as `image_token="<image>"`, and are special tokens too.
    """
    extra = list(dict.fromkeys([*special, *named.values()]))
    words = ["<pad>", "<s>", "</s>", "<unk>", *extra, *(word for word in WORDS if word not in extra)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(extra)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )


def finish(model: Any, *silent: int) -> Any:
    """The model ready for tests: it never stops early and never says a `silent` token.

    Word embeddings are widened, or all would rate alike.
    """
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = None, 0
    generation.suppress_tokens = list(silent) or None  # random weights might say a placeholder
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3)
    return model.float().eval()


def seed() -> None:
    """To be called before a model is built: weights are the same for every attention implementation."""
    torch.manual_seed(7)
