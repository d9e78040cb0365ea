"""What a run will take, worked out beforehand: steps, tokens, arithmetic, memory and disk.

Owns the formulas; measures and loads nothing (`dry_run.py` measures this machine, `preflight.py` refuses). Invariant:
everything here is a function of settings, counted lengths and the shapes of models, whose weights are never read.
Estimates are of the right size, not exact: attention's share of the arithmetic, validation, and what libraries keep
for themselves are left out.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from honed.models.checkpoint import weight_files
from honed.training.configs import DPOConfig, KTOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from honed.training.failures import TrainingError
from honed.training.planning.lengths import Length

# Shares of a bare matmul's speed. A training step also normalises, gathers, sums and updates; an answer is sampled
# token by token, where weights are read from memory for few rows. Both are rules of thumb, and no measurements.
TRAINING_EFFICIENCY: Final = 0.4
SAMPLING_EFFICIENCY: Final = 0.1

STATES: Final = 2  # at once: the newest, and the one being written (`states.py`)
_MASTER_BYTES: Final = 4
_MOMENTS_BYTES: Final = 8  # Adam's two, in float32
_MAX_HEADER_BYTES: Final = 100 * 2**20  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes. `parameters` counts what is stored: tied weights once. `linear`: (rows, columns) of the
    matrices that adapters are put on, those of the layers."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    context_length: int
    linear: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """`steps` of the optimizer; `tokens` that go through the trained model, in all and in one epoch (a round of PPO).
    `flops` in matrices of many rows, `sampling_flops` in those of few."""

    steps: int
    epochs: int
    tokens_per_epoch: int
    flops: float
    sampling_flops: float = 0.0

    @property
    def tokens(self) -> int:
        return self.tokens_per_epoch * self.epochs


def read_shape(folder: Path) -> Shape:
    """From config.json and the headers of the weight files. Raises TrainingError where they cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        config = config.get("text_config") or config
        tensors = {name: shape for path in weight_files(folder) for name, shape in _tensors(path, config)}
        hidden = _first(config, "hidden_size", "n_embd")
        return Shape(
            parameters=sum(math.prod(shape) for shape in tensors.values()),
            layers=_first(config, "num_hidden_layers", "n_layer"),
            hidden=hidden,
            intermediate=_first(config, "intermediate_size", "n_inner", default=4 * hidden),
            vocabulary=_first(config, "vocab_size"),
            context_length=_first(config, "max_position_embeddings", "n_positions"),
            linear=tuple((shape[0], shape[1]) for name, shape in tensors.items() if _is_in_layer(name, shape)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TrainingError(f"The model in {folder} cannot be read: fetch it again. ({error!r})") from error


def context_length(config: RunConfig, policy: Shape, reward: Shape | None) -> int:
    """Tokens that every model reads which a run's prompts and answers go through."""
    if isinstance(config, PPOConfig) and reward is not None:
        return min(policy.context_length, reward.context_length)
    return policy.context_length


def work(config: RunConfig, lengths: Sequence[Length], policy: Shape, reward: Shape | None = None) -> Work:
    """What training on `lengths` takes, cut as they will be. Arithmetic: 2 N a token forwards and 4 N backwards
    (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), of which adapters save half of the latter."""
    update = 4 if config.lora else 6
    if isinstance(config, PPOConfig):
        return _ppo_work(config, lengths, policy, reward or policy, update)
    assert isinstance(config, SFTConfig | RewardConfig | DPOConfig | KTOConfig)
    if isinstance(config, DPOConfig):
        tokens, per_token = sum(2 * each.prompt + sum(each.answers) for each in lengths), update + 2  # the reference
    else:
        tokens = sum(each.total for each in lengths)
        # KTO also runs policy and reference over answers to other prompts, for its estimate of the KL.
        per_token = update + 6 if isinstance(config, KTOConfig) else update
    return Work(
        steps=config.epochs * math.ceil(len(lengths) / config.batch_size),
        epochs=config.epochs,
        tokens_per_epoch=tokens,
        flops=float(per_token * policy.parameters * tokens * config.epochs),
    )


def _ppo_work(config: PPOConfig, lengths: Sequence[Length], policy: Shape, reward: Shape, update: int) -> Work:
    """At most: every answer as long as it may be."""
    mean_prompt = sum(each.prompt for each in lengths) / len(lengths)
    answers = config.batch_size * config.max_new_tokens
    tokens = round(config.batch_size * mean_prompt) + answers
    texts = config.batch_size * config.ptx_examples * config.ptx_tokens if config.pretraining else 0
    # Once forwards: policy and reference, reward model and value network. Then updates of policy and value network.
    forwards = 2 * tokens * 2 * (policy.parameters + reward.parameters)
    updates = (
        config.inner_epochs * update * (tokens * (policy.parameters + reward.parameters) + texts * policy.parameters)
    )
    return Work(
        steps=config.iterations * config.inner_epochs * config.minibatches,
        epochs=config.iterations,
        tokens_per_epoch=tokens,
        flops=float(config.iterations * (forwards + updates)),
        sampling_flops=float(config.iterations * 2 * policy.parameters * answers),
    )


def seconds(todo: Work, flops_per_s: float) -> float:
    """On a machine whose matmuls do `flops_per_s`."""
    return (todo.flops / TRAINING_EFFICIENCY + todo.sampling_flops / SAMPLING_EFFICIENCY) / flops_per_s


def memory(
    config: RunConfig, policy: Shape, reward: Shape | None, *, number_bytes: int, tokens_per_pass: int, shards: int = 1
) -> dict[str, int]:
    """Bytes on one rank, by what holds them. `number_bytes` of a number that is computed in; `shards`: ranks that share
    each model that is trained. What is there before the first pass comes first, `passes` last."""
    weight_bytes = _weight_bytes(config, number_bytes)
    shared = {"policy": _trained_bytes(config, policy, weight_bytes)}
    whole = {}
    if isinstance(config, PPOConfig | DPOConfig | KTOConfig) and (not config.lora or _measures_folded(config, shards)):
        whole["reference"] = policy.parameters * weight_bytes  # with adapters, the policy without them
    if isinstance(config, PPOConfig):
        shared["value network"] = _trained_bytes(config, reward or policy, number_bytes)
    if copies := _copies(config):
        shared["copies of weights"] = copies * _trained(config, policy) * _MASTER_BYTES
    if isinstance(config, PPOConfig | SFTConfig) and (isinstance(config, PPOConfig) or config.reward_model is not None):
        whole["reward model"] = (reward or policy).parameters * number_bytes
    if isinstance(config, PPOConfig | SFTConfig) and shards > 1:
        whole["policy to sample from"] = policy.parameters * number_bytes
    shared = {name: -(-size // shards) for name, size in shared.items()}
    return shared | whole | {"passes": _pass_bytes(config, policy, number_bytes, tokens_per_pass)}


def disk(config: RunConfig, policy: Shape, reward: Shape | None, *, number_bytes: int) -> dict[str, int]:
    """Bytes of what a run writes: the new checkpoint, and the states that a cut-off run goes on from."""
    trained = _trained(config, policy)
    state = trained * (_MASTER_BYTES * (1 + _copies(config)) + _MOMENTS_BYTES)
    if isinstance(config, PPOConfig):
        state += _trained(config, reward or policy) * (_MASTER_BYTES + _MOMENTS_BYTES)
    return {"checkpoint": policy.parameters * _weight_bytes(config, number_bytes), "states": STATES * state}


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Of low-rank adapters on every matrix of the layers (arXiv:2106.09685): `rank` rows and columns each."""
    return sum(rank * (rows + columns) for rows, columns in shape.linear)


def _measures_folded(config: RunConfig, shards: int) -> bool:
    """Whether PPO loads a reference at its end, when the adapters that made one of the policy are folded in."""
    return isinstance(config, PPOConfig) and shards == 1 and bool(config.validation)


def _weight_bytes(config: RunConfig, number_bytes: int) -> int:
    """TRL's trainers keep weights in float32, whatever is computed in."""
    return _MASTER_BYTES if isinstance(config, DPOConfig | KTOConfig) else number_bytes


def _copies(config: RunConfig) -> int:
    """Of the weights that are trained: SFT keeps the best ones, PPO the average and the last good ones."""
    return 2 if isinstance(config, PPOConfig) else 1 if isinstance(config, SFTConfig) else 0


def _trained(config: RunConfig, shape: Shape) -> int:
    return adapter_parameters(shape, config.lora_rank) if config.lora else shape.parameters


def _trained_bytes(config: RunConfig, shape: Shape, number_bytes: int) -> int:
    """Weights and gradients in the numbers to compute in, moments, and where those are not float32 masters with
    gradients of their own. Adapters are float32 throughout."""
    if config.lora:
        adapters = adapter_parameters(shape, config.lora_rank)
        return shape.parameters * number_bytes + adapters * (2 * _MASTER_BYTES + _MOMENTS_BYTES)
    masters = 2 * _MASTER_BYTES if number_bytes < _MASTER_BYTES else 0
    return shape.parameters * (2 * number_bytes + masters + _MOMENTS_BYTES)


def _pass_bytes(config: RunConfig, shape: Shape, number_bytes: int, tokens: int) -> int:
    """What a pass keeps for its way back. A token leaves about 12 vectors of the model's width and 4 of the inner width
    in each layer (as Korthikanti et al. 2022, arXiv:2205.05198, equation 1, count them for another layer), and its
    logits with their gradient; TRL's trainers make float32 of both beside the logits."""
    layers = shape.layers * (12 * shape.hidden + 4 * shape.intermediate) * number_bytes
    logits = number_bytes + 2 * _MASTER_BYTES if isinstance(config, DPOConfig | KTOConfig) else 2 * number_bytes
    return tokens * (layers + shape.vocabulary * logits)


def _tensors(path: Path, config: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, of a safetensors file's header: a length in 8 bytes, then JSON. PyTorch's own files have none,
    and count as one tensor of the size that the file leaves room for."""
    if path.suffix != ".safetensors":
        number_bytes = 2 if str(config.get("dtype", config.get("torch_dtype"))) in ("bfloat16", "float16") else 4
        return [(path.name, (path.stat().st_size // number_bytes,))]
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is no safetensors file")
        header = json.loads(file.read(size))
    return [(name, tuple(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__"]


def _is_in_layer(name: str, shape: tuple[int, ...]) -> bool:
    """A matrix of a numbered layer, as in `model.layers.0.mlp.up_proj.weight`."""
    return len(shape) == 2 and any(part.isdigit() for part in name.split("."))


def _first(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these that config.json has: GPT-2 calls things otherwise."""
    for name in names:
        if config.get(name) is not None:
            return int(config[name])
    if default is None:
        raise KeyError(names[0])
    return default
