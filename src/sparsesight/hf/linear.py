"""Linear layers whose weights may be quantised: their sizes, and a stand-in that has gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .install import Installation, noticed

_ASKING = threading.RLock()


def linear_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Input and output features of a linear layer, whichever class quantised it; None for any other module."""
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if not all(isinstance(size, int) for size in sizes) or isinstance(module, nn.Bilinear):
        return None
    # Adapters have the sizes of the layer that they wrap, which counts itself.
    return sizes if isinstance(module, nn.Linear) or not any(module.children()) else None  # type: ignore[return-value]


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear layer has anything else than a plain matrix of floating-point numbers."""
    weight = getattr(module, "weight", None)
    plain = type(weight) in (nn.Parameter, Tensor) and weight.is_floating_point()  # type: ignore[union-attr]
    return not plain or tuple(weight.shape) != (module.out_features, module.in_features)  # type: ignore[union-attr]


@contextmanager
def with_gradients(module: nn.Module) -> Iterator[None]:
    """Within it, what this thread calls in ``module`` has gradients: some quantised linear layers have none, or fail.

    They multiply with a random matrix instead, which shows as well which rows of the input an output comes from.
    Other threads see no difference.
    """
    asking = threading.get_ident()

    def replaced(plain: Callable[..., Any], width: int, out: int) -> Callable[..., Any]:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != asking:
                return plain(x, *args, **kwargs)
            generator = torch.Generator().manual_seed(0)
            return x @ torch.randn(width, out, generator=generator).to(x) * width**-0.5

        return noticed(forward)

    with _ASKING:
        added = Installation()
        try:
            for part in module.modules():
                sizes = linear_sizes(part)
                if sizes is not None and is_quantised(part):
                    added.attribute(part, "forward", replaced(part.forward, *sizes))
            yield
        finally:
            added.remove()
