"""Models too large for one device: parameters, gradients and optimizer shared out over the ranks by FSDP2.

Each block of layers is gathered just before it computes, in the number format to compute in, and let go afterwards;
gradients are summed over the ranks in float32. Invariant: losses are divided by counts of the whole batch, so that
gradients are summed and never averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from honed.training.distributed import Ranks


def shard(module: nn.Module, ranks: Ranks, dtype: torch.dtype) -> None:
    """Shares `module`, whose weights are float32, out over the ranks, in place."""
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in [*_blocks(module), module]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The tensor that is shared out; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The decoder's layers: the children of the longest list of modules."""
    lists = [list(each) for each in module.modules() if isinstance(each, nn.ModuleList)]
    return max(lists, key=len, default=[])
