"""Modules around a model that run it as it is: what is inside of them is sparsified, or they are refused."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import UnsupportedModelError

SHARDED = {"FSDPModule", "FullyShardedDataParallel"}


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
                raise UnsupportedModelError(
                    f"{name}: fullgraph=True allows no cut between decoder layers, where tokens are dropped; use "
                    "torch.compile(model) without fullgraph"
                )
            model = model._modules["_orig_mod"]
        elif isinstance(model, DataParallel) and len(model.device_ids) > 1:
            raise UnsupportedModelError(
                f"{name}: it copies the model to {len(model.device_ids)} devices in every call, and copies are plain; "
                "use one process per device with DistributedDataParallel"
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
