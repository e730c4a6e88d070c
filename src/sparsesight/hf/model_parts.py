"""Finds a model's decoder, layers and visual token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..core.budget import BEFORE
from ..errors import UnsupportedModelError
from ..families import FAMILIES, UNSUPPORTED_LAYERS, Family
from .fullgraph import no_cut

# Config attributes under which transformers' families store the placeholder id of a visual token.
VISUAL_ID_KEYS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
ATTENTION_NAMES = ("self_attn", "attention", "attn", "mixer")
# What the types of layers in transformers' configs mean here.
WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
SHARDED = {"FSDPModule", "FullyShardedDataParallel"}  # wrappers
KEYLESS = {"linear_attention", "conv", "mamba", "moe", "mlp"}


@dataclass(frozen=True)
class Layer:
    """What kind of decoder layer this is."""

    index: int
    kind: str  # of transformers' layer types, such as "full_attention"
    window: int | None  # tokens that a windowed layer sees
    source: int  # the layer whose keys it reads: its own, or those of an earlier one

    @property
    def attends(self) -> bool:
        return self.kind not in KEYLESS


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model that sparsification touches."""

    given: nn.Module  # by the user, without what `unwrapped` takes off
    model: nn.Module  # the same, without a wrapper for adapters
    base: nn.Module  # takes input_ids and pixel_values
    decoder: nn.Module  # takes inputs_embeds, owns the layers
    layers: nn.ModuleList
    kinds: tuple[Layer, ...]
    visual_ids: tuple[int, ...]
    prunable: tuple[int, ...]  # layers after which pruning is possible; -1: before the first

    def attention(self, layer: int) -> nn.Module:
        """The self-attention module of a decoder layer that has one."""
        found = attention_of(self.layers[layer])
        assert found is not None
        return found


def inspect_model(model: nn.Module) -> ModelParts:
    """Find decoder, layers and visual token ids.

    Raises:
        UnsupportedModelError: if the model has no decoder layers to prune between, or attention that cannot be read.
    """
    given = unwrapped(model)
    name = f"model={type(given).__name__}"
    model = unwrapped(_without_adapters(given))
    kind = getattr(getattr(model, "config", None), "model_type", "")
    why = FAMILIES.get(kind, Family()).unsupported
    if why:
        raise UnsupportedModelError(f"{name} ({kind}) cannot be sparsified: {why}")
    if not isinstance(model, nn.Module) or not hasattr(model, "get_decoder") or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"{name}: expected a transformers model with get_decoder(), such as "
            "AutoModelForImageTextToText loads"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name}: an encoder-decoder has no visual tokens in its decoder")
    decoder = _decoder_of(model)
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) < 2:
        raise UnsupportedModelError(f"{name}: found no decoder with two layers or more")
    kinds = layer_kinds(decoder.config, len(layers))
    strange = sorted({x.kind for x in kinds} - {"full_attention", *WINDOWED, *KEYLESS})
    if strange:
        why = UNSUPPORTED_LAYERS.get(strange[0], "it is not known how they see what is left")
        raise UnsupportedModelError(f"{name}: decoder layers of type {strange} cannot be pruned: {why}")
    check_implementation(decoder, kinds)
    blind = [i for i, layer in enumerate(layers) if kinds[i].attends and attention_of(layer) is None]
    if blind:
        raise UnsupportedModelError(f"{name}: no self-attention found in decoder layers {blind}")
    possible = prunable(model.config, kinds)
    if not set(possible) - {BEFORE}:
        raise UnsupportedModelError(
            f"{name}: there is no decoder layer after which all later ones work with fewer tokens"
        )
    base = getattr(model, "base_model", model)
    return ModelParts(
        given=given,
        model=model,
        base=model if base is decoder else base,
        decoder=decoder,
        layers=layers,
        kinds=kinds,
        visual_ids=visual_ids(model.config),
        prunable=possible,
    )


def unwrapped(model: Any) -> Any:
    """The model without the wrappers of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``.

    Raises:
        UnsupportedModelError: for wrappers that spread a model over devices, or are not known; and for a compiler that
            may not cut its graph.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if any(kind.__name__ in SHARDED for module in modules for kind in type(module).__mro__):
        raise UnsupportedModelError(
            f"model={type(model).__name__}: its weights are sharded (FSDP), and pruning between sharded layers has not "
            "been tried; sparsify a model that each process holds as a whole, such as one in DistributedDataParallel"
        )
    while isinstance(model, nn.Module):
        name = f"model={type(model).__name__}"
        if "_orig_mod" in model._modules:
            if getattr(getattr(model, "dynamo_ctx", None), "fullgraph", False):
                raise no_cut(name)
            model = model._modules["_orig_mod"]
        elif isinstance(model, DataParallel) and len(model.device_ids) > 1:
            raise UnsupportedModelError(
                f"{name}: it copies the model to {len(model.device_ids)} devices in every call, and the copies are not "
                "sparsified; use one process per device with DistributedDataParallel"
            )
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(model._modules.get("module"), nn.Module) and not hasattr(model, "get_decoder"):
            raise UnsupportedModelError(
                f"{name}: this wrapper is not known; pass the model inside, its .module"
            )
        else:
            break
    return model


def layer_config(config: Any, index: int) -> Any:
    """The config of one decoder layer, where layers differ in their sizes; else that of all."""
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def _without_adapters(model: Any) -> Any:
    """The model inside a PEFT wrapper: its forward calls the model's own, past the hooks of the wrapper."""
    if not callable(getattr(model, "get_base_model", None)):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedModelError(
            f"model={type(model).__name__}: an adapter of virtual tokens (prompt learning) hands the decoder "
            "embeddings without token ids, so visual tokens cannot be found; use an adapter of weights, such as LoRA"
        )
    return model.get_base_model()


def layer_kinds(config: Any, count: int) -> tuple[Layer, ...]:
    """The kinds of a decoder's layers, as its cache sees them."""
    types = list(getattr(config, "layer_types", None) or ())
    if not types:
        windowed = next((t for t, key in WINDOWED.items() if getattr(config, key, None)), "full_attention")
        types = [windowed] * count
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    modes = getattr(config, "kv_sharing_modes", None) or ["own"] * (count - shared) + ["reuse"] * shared
    kinds = []
    for index, kind in enumerate(types[:count]):
        sources = [i for i in range(index) if types[i] == kind and modes[i] != "reuse"]
        source = sources[-1] if modes[index] == "reuse" and sources else index
        window = getattr(layer_config(config, index), WINDOWED[kind], None) if kind in WINDOWED else None
        kinds.append(Layer(index, kind, window, source))
    return tuple(kinds)


def prunable(config: Any, kinds: tuple[Layer, ...]) -> tuple[int, ...]:
    """Layers after which tokens may go, and before the first if no later one adds picture features.

    They attend to everything (a windowed one would do only where all are), they come after the last layer that still
    adds picture features to the hidden states, and before every layer whose keys others borrow, as those must go
    with the borrowers' masks.
    """
    last = _last_addition(config)
    stop = min([len(kinds) - 1, *(x.source for x in kinds if x.source != x.index)])
    full = any(x.kind == "full_attention" for x in kinds)
    return (
        *((BEFORE,) if not last and stop > 0 else ()),
        *(
            i
            for i in range(max(last - 1, 0), stop)
            if kinds[i].kind == "full_attention" or (kinds[i].attends and not full)
        ),
    )


def _last_addition(config: Any) -> int:
    """The last layer before which a family adds picture features to the hidden states (deepstack), 0 if none."""
    vision = getattr(config, "vision_config", None)
    after = len(getattr(vision, "deepstack_visual_indexes", None) or ())  # one each after the first layers
    mapped = [layer for _, layer in getattr(config, "deepstack_layer_map", None) or ()]
    spatial = getattr(config, "spatial_target_layers", None) if mapped else None
    return max([after, *mapped, *(spatial or ())])


def _decoder_of(model: Any) -> Any:
    """The module that owns the decoder layers; some families' ``get_decoder`` returns one around it."""
    decoder = model.get_decoder()
    while not hasattr(decoder, "layers"):
        inner = getattr(decoder, "model", None) or getattr(decoder, "language_model", None)
        if inner is None:
            break
        decoder = inner
    return decoder


def visual_ids(config: Any) -> tuple[int, ...]:
    """Placeholder ids of image and video tokens, from whichever names the family's config uses."""
    found = (getattr(config, key, None) for key in VISUAL_ID_KEYS)
    return tuple(sorted({int(x) for x in found if x is not None}))


def attention_implementation(decoder: nn.Module) -> str:
    """Name of the attention implementation, such as ``sdpa``."""
    config: Any = decoder.config
    return str(config._attn_implementation)


def check_implementation(decoder: nn.Module, kinds: tuple[Layer, ...], weighted: bool = False) -> None:
    """Refuse attention implementations that cannot see what is left, or cannot count it (``weighted``).

    Raises:
        UnsupportedModelError: naming the implementation.
    """
    name = attention_implementation(decoder)
    if weighted and "flash" in name:
        raise UnsupportedModelError(
            f"attn_implementation={name!r}: FlashAttention takes no weight of single keys, which proportional=True "
            "needs; use attn_implementation='sdpa', or leave proportional out"
        )
    if "paged" in name:
        raise UnsupportedModelError(
            f"attn_implementation={name!r}: continuous batching packs prompts into blocks of keys that all layers "
            "share; use generate() and attn_implementation='sdpa'"
        )
    if "flash" in name and any(x.window for x in kinds):
        raise UnsupportedModelError(
            f"attn_implementation={name!r}: FlashAttention counts a sliding window in the tokens that are left, not "
            "in the prompt's; use attn_implementation='sdpa'"
        )


def copies_of(module: nn.Module) -> list[nn.Module]:
    """The module itself; where PEFT trains copies of it (``modules_to_save``), those and the original."""
    copies = getattr(module, "modules_to_save", None)
    original = getattr(module, "original_module", None)
    if isinstance(copies, nn.ModuleDict) and isinstance(original, nn.Module):
        return [original, *copies.values()]
    return [module]


def attention_of(layer: nn.Module) -> nn.Module | None:
    """The self-attention module of a decoder layer, or None if it has none."""
    return next((getattr(layer, n) for n in ATTENTION_NAMES if hasattr(layer, n)), None)
