"""What methods read of the vision tower. It stands in further columns of a picture's embeddings, and goes with them.

vLLM encodes a picture once, keeps its embeddings under the hash of the picture, and gives rows of them to later steps.
So whatever becomes of the embeddings becomes of what was read with them, and nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.stage import Vision
from ..errors import UnsupportedModelError
from ..hf.vision.reader import patch_attention
from ..hf.vision.row_hash import find_rows, row_hashes
from ..hf.vision.towers import CLASS_TOKEN, INSTEAD
from ..hf.vision.tracing import TracedRows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Where vLLM's models have the module that makes visual tokens of patches: of one each, of those side by side in a row,
# or of a group of rows that follow one another.
PROJECTORS = ("multi_modal_projector", "mlp1", "visual.merger")


class TowerReader:
    """Reads the vision tower of one of vLLM's models while it encodes pictures.

    The attention is that of the last layer, whose output goes to the language model: vLLM makes no later ones. Rows are
    recognised by their bits, as in transformers (`hf/vision/row_hash.py`), so that it does not matter in which order a
    family puts them and what it puts between them.

    Args:
        model: one of vLLM's.
        method: name of the method that needs it, for what is refused.

    Raises:
        UnsupportedModelError: there is no tower that can be read.
    """

    def __init__(self, model: Any, method: str) -> None:
        self.model = model
        self.blame = f"{method} reads the vision tower, and vLLM's {type(model).__name__} "
        layers, tower = self._tower()
        self.attention = _attention_of(layers[-1])
        self.projector = self._projector()
        if getattr(self.attention.attn_backend, "name", "") == "FLASHINFER":
            raise UnsupportedModelError(
                f"{self.blame}is given the bounds of pictures in units of FlashInfer's: pass "
                "--mm-encoder-attn-backend FLASH_ATTN"
            )
        self.class_token = any(CLASS_TOKEN.search(name) for name, _ in tower.named_parameters())
        # Whether the features of several layers lie side by side in a row, of which one is known.
        self.several = isinstance(getattr(model.config, "vision_feature_layer", None), list | tuple)
        # Numbers that are read of a token: its attention and its key.
        self.width = 1 + int(self.attention.head_size)
        self.running = False
        self.observed: Tensor | None = None  # of the layer that attends now: attention and key of each row
        self.patches: TracedRows | None = None
        self.patch_width = 0
        self.tokens: list[TracedRows] = []
        self.attention.register_forward_pre_hook(self._observe, with_kwargs=True)
        _after(layers[-1], self._leave_layer)
        _after(self.projector, self._leave_projector)

    # -- while pictures are encoded ---------------------------------------------------------------------------

    def read(self, encode: Callable[[], Any]) -> tuple[Tensor, ...]:
        """The embeddings of each picture that ``encode`` makes, with what is read in further columns, bit for bit.

        Raises:
            UnsupportedModelError: it is not known of which patches some of them are made. vLLM encodes the largest
                pictures and clips when it starts, so that it is known then.
        """
        self._clear()
        self.running = True
        try:
            items = [*encode()]
            tokens = TracedRows.joined(self.tokens) if self.tokens else None
        finally:
            self._clear()
        return self._attached(items, tokens) if items else ()

    def _attached(self, items: list[Tensor], seen: TracedRows | None) -> tuple[Tensor, ...]:
        flat = torch.cat(items)
        number = row_hashes(flat)
        newline = getattr(self.model, "image_newline", None)
        nothing = torch.zeros_like(number, dtype=torch.bool)
        if newline is not None:
            nothing = number == row_hashes(newline.detach().to(flat)[None])
        place = torch.full_like(number, -1) if seen is None else find_rows(seen.number, number)
        known = nothing | (place >= 0 if seen is None else (place >= 0) & seen.known[place])
        if seen is None or not bool(known.all()):
            raise UnsupportedModelError(
                f"{self.blame}makes other rows of what its projector gives: it is not known which patches "
                f"{int((~known).sum())} of {len(known)} visual tokens are made of; {INSTEAD}"
            )
        attention = seen.attention[place].masked_fill(nothing, float("-inf"))
        key = seen.key[place].masked_fill((nothing | attention.isinf())[:, None], 0)
        read = torch.cat((attention[:, None], key), 1)
        return with_columns(flat, read).split([len(x) for x in items])

    def _observe(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.running:
            return
        query, key = args[:2] if args else (kwargs["query"], kwargs["key"])
        query, key = (_heads(x, module.head_size) for x in (query, key))
        bounds = kwargs.get("cu_seqlens")  # all pictures as one sequence
        sizes = [query.shape[2]] if bounds is None else bounds.diff().tolist()
        found = []
        with torch.no_grad():
            for q, k in zip(query.split(sizes, 2), key.split(sizes, 2), strict=True):
                attention = patch_attention(q, k, None, module.scale, self.class_token)
                found.append(torch.cat((attention[..., None], k.float().mean(1)), -1).flatten(0, 1))
            self.observed = _over_ranks(torch.cat(found))

    def _leave_layer(self, given: Any, output: Any) -> None:
        rows = output[0] if isinstance(output, tuple) else output
        rows, read = rows.reshape(-1, rows.shape[-1]), self.observed
        self.observed = None
        if read is not None and len(rows) == len(read):
            known = torch.ones_like(read[:, 0], dtype=torch.bool)
            self.patches = TracedRows(
                row_hashes(rows), read[:, 0], read[:, 1:], read.new_zeros(len(read), 0), known
            )
            self.patch_width = rows.shape[1]

    def _leave_projector(self, x: Tensor, output: Tensor) -> None:
        seen = self.patches
        if seen is None:
            return
        rows = output.reshape(-1, output.shape[-1])
        number, patches = row_hashes(rows), x.numel() // self.patch_width
        if x.shape[-1] % self.patch_width or patches % len(rows):
            return
        place = find_rows(seen.number, row_hashes(x.reshape(patches, self.patch_width)))
        self.tokens.append(seen.means(number, place.view(len(rows), -1), self.several))

    def _clear(self) -> None:
        self.running, self.observed, self.patches, self.tokens = False, None, None, []

    def split(
        self, embeddings: Sequence[Tensor], is_visual: Bool[Tensor, " n"]
    ) -> tuple[list[Tensor], Float[Tensor, "n k"]]:
        """The embeddings of a step's visual tokens alone, and what was read of each row of the step; 0 elsewhere.

        Args:
            embeddings: with the further columns.
            is_visual: rows of the step that they are for.
        """
        alone, read = zip(*(without_columns(x, self.width) for x in embeddings), strict=True)
        rows = read[0].new_zeros(len(is_visual), self.width)
        rows.masked_scatter_(is_visual.to(rows.device, non_blocking=True)[:, None], torch.cat(read))
        return [*alone], rows

    # -- parts of the model -----------------------------------------------------------------------------------

    def _tower(self) -> tuple[nn.ModuleList, nn.Module]:
        """The one stack of layers with a tower's attention, and the part of the model that owns it."""
        found = [
            (layers, getattr(self.model, path.split(".")[0]))
            for path, layers in self.model.named_modules()
            if isinstance(layers, nn.ModuleList) and len(layers) and all(map(_attention_of, layers))
        ]
        if len(found) != 1:
            raise UnsupportedModelError(f"{self.blame}has {len(found)} towers that can be read: {INSTEAD}")
        return found[0]

    def _projector(self) -> nn.Module:
        for path in PROJECTORS:
            module: Any = self.model
            for name in path.split("."):
                module = getattr(module, name, None)
            if isinstance(module, nn.Module):
                return module
        raise UnsupportedModelError(f"{self.blame}has no projector that can be read: {INSTEAD}")


def with_columns(embeddings: Float[Tensor, "n c"], read: Float[Tensor, "n k"]) -> Tensor:
    """Embeddings of any dtype, and in further columns of it the bits of ``read``, in float32."""
    return torch.cat((embeddings, read.float().contiguous().view(embeddings.dtype)), 1)


def without_columns(joined: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What :func:`with_columns` joined, where ``read`` has ``width`` columns."""
    at = joined.shape[1] - width * torch.float32.itemsize // joined.element_size()
    return joined[:, :at], joined[:, at:].contiguous().view(torch.float32)


def vision_of(read: Float[Tensor, "n k"], row: Int[Tensor, "b n"], visual: Bool[Tensor, "b n"]) -> Vision:
    """What methods are shown of prompts with these rows of a step."""
    own = read[row]
    attention = own[..., 0].masked_fill(~visual, 0)
    return Vision(attention, own[..., 1:].masked_fill(~visual[..., None], 0))


def _heads(x: Tensor, size: int) -> Float[Tensor, "b h n d"]:
    """Of [b, n, hd] or [b, n, h, d]."""
    return x.reshape(*x.shape[:2], -1, size).transpose(1, 2)


def _attention_of(layer: nn.Module) -> Any:
    from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

    return next((x for x in layer.modules() if isinstance(x, MMEncoderAttention)), None)


def _after(module: Any, tell: Callable[[Any, Any], None]) -> None:
    """Let ``tell`` know a module's first argument and its output. Classes that vLLM may compile call no hooks."""
    inner = module.forward

    @wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = inner(*args, **kwargs)
        tell(args[0] if args else None, output)
        return output

    module.forward = forward


def _over_ranks(mean: Tensor) -> Tensor:
    """The mean over all heads, of that over this tensor-parallel rank's. Ranks have equally many, and get the same."""
    from vllm import distributed

    ranks = distributed.get_tensor_model_parallel_world_size()
    return mean if ranks == 1 else distributed.tensor_model_parallel_all_reduce(mean) / ranks
