"""The bundled model before training: its words, its shape and its processor, all stock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sparsesight.scenes.questions import plural
from sparsesight.scenes.scenes import CELLS, COLORS, GRID, LETTERS, MAX_COUNT, PATCH, SHAPES, SIDE, SIZES

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
PLURALS = [plural(shape) for shape in SHAPES]
QUESTION_WORDS = "What color is the shape object Is there a an How many objects are size letter on Where"
ANSWER_WORDS = "yes no top bottom left right of above below"
GROUND = "background"  # the word that is true of a patch no object owns
SIDES = ["top", "bottom", "left", "right"]  # true of all patches of an object, by where its centre lies
# Words of no question, but true of patches: the cell of the object, and its middle. A language model finds what it can
# name: without them it was slow to find a neighbour, or to count objects rather than patches.
COLUMNS, ROWS = [f"column{i}" for i in range(CELLS)], [f"row{i}" for i in range(CELLS)]
MIDDLE = "middle"
CONTENT = [
    *SHAPES,
    *PLURALS,
    *COLORS,
    *SIZES,
    *LETTERS,
    *SIDES,
    *COLUMNS,
    *ROWS,
    MIDDLE,
    GROUND,
]  # the words that can be true of a patch
VOCABULARY = [
    *SPECIAL,
    *("\n", "USER", "ASSISTANT", ":", "?", "."),
    *QUESTION_WORDS.split(),
    *ANSWER_WORDS.split(),
    *SHAPES,
    *PLURALS,
    *COLORS,
    *SIZES,
    *(str(number) for number in range(MAX_COUNT + 1)),
    *LETTERS,
    *COLUMNS,
    *ROWS,
    MIDDLE,
    GROUND,
]
WORD_PATTERN = r"\n|\w+|[^\w\s]"  # a token is a line break, a word or a sign
WORD_ID = {word: index for index, word in enumerate(VOCABULARY)}
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def build_model(width: int, layers: int, tower_layers: int, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model in float32."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e10},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        pad_token_id=WORD_ID["<pad>"],
        bos_token_id=WORD_ID["<s>"],
        eos_token_id=WORD_ID["</s>"],
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=tower_layers,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
        hidden_act="gelu_pytorch_tanh",
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=WORD_ID["<image>"],
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID**2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    _initialise(model, width)
    generation = model.generation_config
    generation.pad_token_id = WORD_ID["<pad>"]
    generation.bos_token_id, generation.eos_token_id = WORD_ID["<s>"], WORD_ID["</s>"]
    return model


@torch.no_grad()
def _initialise(model: Any, width: int) -> None:
    """Wider draws than the stock 0.02, which suits widths in the thousands.

    Keys start out correlated with queries, so that attention begins by matching like with like, as it does in
    trained transformers (mimetic initialisation, Trockman and Kolter 2023).
    """
    model.get_input_embeddings().weight.normal_(std=0.13)
    model.lm_head.weight.normal_(std=0.05)
    for layer in model.model.language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        spread = 0.6 / math.sqrt(width)
        for linear in (attention.q_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            linear.weight.normal_(std=spread)
        noise = torch.randn_like(attention.k_proj.weight) * spread
        attention.k_proj.weight.copy_(0.7 * attention.q_proj.weight + 0.4 * noise)
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight.normal_(std=0.15 / math.sqrt(linear.in_features))
    for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        linear.weight.normal_(std=1 / math.sqrt(linear.in_features))
        linear.bias.zero_()
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    places = tower.embeddings.position_embedding.weight
    places[1:] = _waves(places.shape[1])
    for layer in tower.encoder.layers:
        for name, weight in layer.named_parameters():
            if weight.dim() == 2:
                last = "out_proj" in name or "fc2" in name
                weight.normal_(std=(0.15 if last else 0.5) / math.sqrt(weight.shape[1]))


def _waves(width: int) -> torch.Tensor:
    """Sines and cosines of a patch's row and column: [GRID * GRID, width]."""
    quarter = width // 4
    speeds = torch.exp(torch.linspace(math.log(1.2), math.log(0.06), quarter))
    phase = torch.arange(GRID)[:, None] * speeds
    line = 0.5 * torch.cat([phase.sin(), phase.cos()], dim=1)
    rows = line[:, None].expand(GRID, GRID, -1)
    columns = line[None].expand(GRID, GRID, -1)
    return torch.cat([rows, columns], dim=-1).reshape(GRID * GRID, width)


@torch.no_grad()
def tell_apart(model: Any, length: float, share: float = 0.8, scale: float = 2.0) -> None:
    """Give visual tokens and words a direction each, to and fro along a line that no word embedding uses.

    A query for "red" would match the word itself better than any red patch, since a patch is several words at
    once; along this line, keys of patches differ from keys of words. Neither the ranking of words that a patch
    or a hidden state gives nor the published rater rule changes, as all words move alike. Visual tokens are
    also made shorter, from a mean `length` to `length / scale`, closer to that of words.
    """
    table = model.get_input_embeddings().weight
    last = model.model.multi_modal_projector.linear_2
    line = torch.linalg.svd(table, full_matrices=True)[2][-1]
    last.weight.div_(scale)
    last.bias.div_(scale)
    last.bias.add_(share * length / scale * line)
    table.sub_(share * table.norm(dim=1).mean() * line)
    for layer in model.model.language_model.layers:
        key = layer.self_attn.k_proj.weight
        key.sub_(2 * (key @ line)[:, None] * line)  # words begin by looking at patches rather than at words


@torch.no_grad()
def grow(model: Any, layers: int) -> Any:
    """The model with `layers` layers: above its own come new ones that at first change nothing."""
    text = model.config.text_config
    old = model.model.language_model.layers
    grown = build_model(text.hidden_size, layers, model.config.vision_config.num_hidden_layers, seed=layers)
    grown.to(next(model.parameters()).device)
    new = grown.model.language_model.layers
    state = {
        name: value for name, value in model.state_dict().items() if "language_model.layers." not in name
    }
    grown.load_state_dict(state, strict=False)
    for index, layer in enumerate(new):
        if index < len(old):
            layer.load_state_dict(old[index].state_dict())
        else:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return grown


def build_processor() -> LlavaProcessor:
    """One token per word, and pictures brought to 336 x 336 as CLIP does it."""
    tokenizer = Tokenizer(models.WordLevel(WORD_ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", WORD_ID["<s>"])]
    )
    # Text as it was written: a blank before each word, none before a sign, at the start, or of a line.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^(?=[\w<])"), " "),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=1024,
    )
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_resize=True,
        do_center_crop=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )
