"""A model in training: gradients gathered over passes and ranks, one optimizer step, and the state to go on from.

The model computes in its own number format; its *masters*, which AdamW changes, are float32 (in bfloat16 most updates
would round to nothing). Where the model computes in float32, or is shared out by FSDP2, the parameters are the masters.
`backward` may be called for any number of losses: all of them go into the same buffer, and one `step` follows.

Invariant: after `step` the model's weights are the masters, rounded; its gradients are gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from honed.training.distributed import Ranks
from honed.training.failures import TrainingError
from honed.training.sharding import is_sharded

State: TypeAlias = dict[str, Any]  # nested, with tensors as leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW's. `eps` is 1e-5 for RL (Huang et al. 2024, detail 18) and 1e-8 elsewhere."""

    learning_rate: float
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8


class DivergedError(TrainingError):
    """The numbers of a run are not finite any more; what they were before is untouched."""


class Learner:
    """`module` comes with float32 weights; those that require a gradient are trained, in `dtype`."""

    def __init__(self, module: nn.Module, ranks: Ranks, config: OptimizerConfig, dtype: torch.dtype) -> None:
        self.module = module
        self.ranks = ranks
        self._config = config
        self._trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self.masters = {name: _master(name, each, dtype, module) for name, each in self._trained.items()}
        _compute_in(module, dtype)
        decayed = [each for each in self.masters.values() if each.dim() > 1]
        others = [each for each in self.masters.values() if each.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=not is_sharded(module),
        )
        for master in self.masters.values():  # here already, so that a state can be read into it
            self._optimizer.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to the buffer."""
        loss.backward()
        found = [(p.grad, master.grad) for p, master in self._pairs() if master is not p and p.grad is not None]
        if found:  # in one call: on a GPU, a call for each would take longer than the sums
            parts, sums = zip(*found, strict=True)
            torch._foreach_add_(sums, parts)
        for parameter, master in self._pairs():
            if master is not parameter:
                parameter.grad = None

    def step(self, factor: float) -> float:
        """Sums the ranks' gradients and takes one step at `factor` of the learning rate. The norm before clipping.

        Raises DivergedError, and takes no step, where the gradient is not finite.
        """
        if not is_sharded(self.module):  # there it was summed on the way back
            gradients = (master.grad if master.grad is not None else torch.zeros_like(master) for master in self._all())
            gathered = list(gradients)
            self.ranks.sum_in_place(gathered)
            for master, gradient in zip(self._all(), gathered, strict=True):
                master.grad = gradient
        found = nn.utils.clip_grad_norm_(list(self._all()), self._config.max_grad_norm)
        norm = float(found.full_tensor() if isinstance(found, DTensor) else found)
        if not math.isfinite(norm):
            self._clear()
            raise DivergedError("The gradient is not finite: the run diverged. Lower --learning-rate.")
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor
        self._optimizer.step()
        self._clear()
        self.publish(self.masters)
        return norm

    @torch.no_grad()
    def publish(self, weights: dict[str, Tensor]) -> None:
        """Makes `weights`, named as the masters, those that the model computes with."""
        for name, parameter in self._trained.items():
            if weights[name] is not parameter:
                parameter.copy_(weights[name])

    @contextmanager
    def showing(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """The model computes with `weights` for the block, and with the masters again afterwards."""
        # A parameter that is its own master is overwritten meanwhile.
        kept = {name: each.detach().clone() for name, each in self._trained.items() if self.masters[name] is each}
        self.publish(weights)
        try:
            yield
        finally:
            self.publish(self.masters | kept)

    def state(self) -> State:
        """The masters and AdamW's moments: the tensors themselves, to be written or to be read into."""
        moments = {name: self._optimizer.state[master] for name, master in self.masters.items()}
        return {"masters": {name: each.detach() for name, each in self.masters.items()}, "moments": moments}

    def _pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        return ((parameter, self.masters[name]) for name, parameter in self._trained.items())

    def _all(self) -> Iterator[Tensor]:
        return iter(self.masters.values())

    def _clear(self) -> None:
        gathered = []
        for parameter, master in self._pairs():
            if master is parameter:
                parameter.grad = None
            elif master.grad is not None:
                gathered.append(master.grad)
        if gathered:
            torch._foreach_zero_(gathered)


class Average:
    """An exponential moving average of masters (Ouyang et al. 2022, appendix C.4).

    A short run would never leave its start, so the decay rises: it is at most (1 + n) / (10 + n) at update n.
    """

    def __init__(self, masters: dict[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.weights = {name: each.detach().clone() for name, each in masters.items()}
        self.updates = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, masters: dict[str, Tensor]) -> None:
        self.updates += 1
        n = int(self.updates)
        decay = min(self._decay, (1 + n) / (10 + n))
        for name, average in self.weights.items():
            average.lerp_(masters[name].detach(), 1.0 - decay)

    def state(self) -> State:
        return {"weights": self.weights, "updates": self.updates}


class Best:
    """The weights that were best so far, by a number of which more is better."""

    def __init__(self, masters: dict[str, Tensor]) -> None:
        self.weights = {name: each.detach().clone() for name, each in masters.items()}
        self.value = torch.tensor(-math.inf, dtype=torch.float64)

    @torch.no_grad()
    def offer(self, masters: dict[str, Tensor], value: float) -> None:
        """Takes the weights where `value` is no worse than what there is. Raises DivergedError for one not finite."""
        if not math.isfinite(value):
            raise DivergedError("What was measured on held-out data is not finite. Lower --learning-rate.")
        if value >= float(self.value):
            self.value.fill_(value)
            for name, kept in self.weights.items():
                kept.copy_(masters[name])

    def state(self) -> State:
        return {"weights": self.weights, "value": self.value}


def learning_rate_factor(step: int, steps: int, *, warmup: float, final: float) -> float:
    """Share of the peak at `step` (from 0) of `steps`: a rise over the share `warmup`, then a cosine to `final`."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    progress = (step - rising) / max(steps - rising, 1)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def _master(name: str, parameter: nn.Parameter, dtype: torch.dtype, module: nn.Module) -> Tensor:
    if dtype == torch.float32 or is_sharded(module) or _is_precise(name):
        return parameter
    master = parameter.detach().clone().float()
    master.grad = torch.zeros_like(master)
    return master


def _compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the parameters and nothing else: buffers such as the frequencies of rotary embeddings stay precise."""
    if is_sharded(module):
        return
    for name, parameter in module.named_parameters():
        if not _is_precise(name):
            parameter.data = parameter.data.to(dtype)


def _is_precise(name: str) -> bool:
    """A few weights whose numbers are used as they are: a scalar head's and adapters'."""
    return name.startswith("head.") or ".lora_" in name
