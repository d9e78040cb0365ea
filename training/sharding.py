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

from honed.models.scalar_head import ScalarModel
from honed.training.configs import RunConfig
from honed.training.distributed import Ranks


def shard(module: nn.Module, ranks: Ranks, dtype: torch.dtype) -> None:
    """Shares `module`, whose weights are float32, out over the ranks, in place: block after block is moved to the
    rank's device, of which this rank's share stays there."""
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))

    def share_out(part: nn.Module, number: torch.dtype) -> None:
        policy = MixedPrecisionPolicy(param_dtype=number, reduce_dtype=torch.float32, cast_forward_inputs=False)
        # Let go always: what stayed gathered would be used again after the weights were changed.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    for block in _blocks(module):
        share_out(block, dtype)
    if isinstance(module, ScalarModel):
        share_out(module.head, torch.float32)
    share_out(module, dtype)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # else it multiplies on the way, which gloo cannot


def shares_out(config: RunConfig, ranks: Ranks) -> bool:
    """Whether models that are trained are to be shared out."""
    return config.sharding == "full" and ranks.size > 1


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The tensor that is shared out; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The decoder's layers: the children of the longest list of modules."""
    lists = [list(each) for each in module.modules() if isinstance(each, nn.ModuleList)]
    return max(lists, key=len, default=[])
