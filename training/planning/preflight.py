"""What is refused before any weight is loaded: a run that could not end well, told in the first seconds of it.

Owns the checks, each a function of what it is told (settings, counted lengths, folders' small files, free bytes).
Loads no model and writes nothing. What settings say about themselves is checked in `configs.py`, what data say in
`datasets.py`. Invariant: whatever is refused names the option that changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from honed.models.checkpoint import LINEAGE_FILE
from honed.training.configs import DPOConfig, KTOConfig, PPOConfig, RunConfig, SFTConfig, Stage
from honed.training.failures import TrainingError
from honed.training.planning.estimates import Shape, context_length, disk, memory, read_shape
from honed.training.planning.lengths import Fitted, Length, Limits, fit, limits, scored_tokens

if TYPE_CHECKING:
    from honed.training.planning.machine import Machine

NOUNS: Final[Mapping[Stage, str]] = {
    "sft": "demonstrations", "reward": "rankings", "ppo": "prompts", "dpo": "pairs", "kto": "thumbs",
}  # fmt: skip

_GIB: Final = 2**30


def preflight(
    stage: Stage,
    config: RunConfig,
    lengths: Sequence[Length],
    held_out: Sequence[Length] | None = None,
    *,
    policy: Path,
    reward_model: Path | None,
    machine: Machine,
) -> list[str]:
    """Raises TrainingError for what cannot work; returns what is worth knowing, a sentence each.

    `lengths` are those of the training split, uncut, and `held_out` those to be measured on, None where nothing is to
    be; `policy` and `reward_model` are folders.
    """
    require_policy(policy)
    if reward_model is not None and isinstance(config, SFTConfig) and held_out is None:
        raise TrainingError(
            "--reward-model chooses the epoch by answers to held-out prompts, and there are none: raise --validation, "
            "or leave it out."
        )
    if reward_model is not None:
        require_judge(reward_model)
        require_same_tokens(policy, reward_model)
    shape = read_shape(policy)
    judge = None if reward_model is None else read_shape(reward_model)
    limit = limits(config, context_length(config, shape, judge))
    is_context = limit.tokens < config.max_tokens
    if isinstance(config, SFTConfig) and judge is not None:
        check_scored(held_out or (), min(limit.tokens, judge.context_length))
    notes = check_lengths(stage, fit(lengths, limit), limit, is_context=is_context)
    if held_out is not None:
        notes += check_lengths(stage, fit(held_out, limit), limit, is_context=is_context, are_held_out=True)
    return [*notes, *check_room(config, shape, judge, machine)]


def require_extra(config: RunConfig) -> None:
    """Raises TrainingError where a package is missing that this run needs and that serving does not."""
    needed = ["tensorboard", "matplotlib"]
    if isinstance(config, DPOConfig | KTOConfig):
        needed += ["trl", "peft"]
    elif config.lora:
        needed.append("peft")
    if missing := [name for name in needed if find_spec(name) is None]:
        raise TrainingError(f"Training needs {', '.join(missing)}: pip install 'honed[train]'")


def require_reward_model(config: RunConfig) -> None:
    """Raises TrainingError for PPO without one."""
    if isinstance(config, PPOConfig) and config.reward_model is None:
        raise TrainingError("PPO needs a reward model: name one with --reward-model, from `honed train reward`.")


def output_name(config: RunConfig, stage: Stage) -> str:
    """Of the new checkpoint."""
    return config.output or f"{Path(config.model).name}-{stage}"


def require_output(name: str, *, has_checkpoint: bool, has_run: bool, resume: bool) -> None:
    """Raises TrainingError unless `name` is free, or, to resume, that of a run that has not ended."""
    if has_checkpoint:
        raise TrainingError(
            f"There is a checkpoint {name} already, and none is ever changed: name another with --output."
        )
    if resume and not has_run:
        raise TrainingError(f"There is no run {name} to go on with: leave --resume out, or name another with --output.")
    if has_run and not resume:
        raise TrainingError(
            f"There is a run {name} already: --resume goes on with it where it was cut off; --output begins another."
        )


def require_policy(folder: Path) -> None:
    """Raises TrainingError for a reward model, which answers nothing."""
    if stage_of(folder) == "reward":
        raise TrainingError(f"{folder.name} is a reward model, which answers nothing: name a policy with --model.")


def require_judge(folder: Path, *, option: str = "--reward-model") -> None:
    """Raises TrainingError for anything but a reward model; `option` is what names one."""
    if (stage := stage_of(folder)) != "reward":
        what = "from elsewhere" if stage is None else f"of the stage {stage}"
        raise TrainingError(
            f"{folder.name} is a checkpoint {what}, and no reward model: name one that `honed train reward` made with "
            f"{option}."
        )


def stage_of(folder: Path) -> str | None:
    """The stage that a checkpoint's lineage names; None for a model from elsewhere. Raises TrainingError."""
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_bytes())["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: fetch or train the model again.") from error


def require_same_tokens(policy: Path, reward_model: Path) -> None:
    """Raises TrainingError where the same id is another token: answers reach the reward model as ids."""
    if vocabulary_digest(policy) != vocabulary_digest(reward_model):
        raise TrainingError(
            f"{reward_model.name} reads other tokens than {policy.name} writes: train the reward model from "
            f"{policy.name} (`honed train reward --model`), or from a model with the same tokenizer."
        )


def vocabulary_digest(folder: Path) -> str:
    """Of every token and its id; of the tokenizer's file as it is where that is none of the `tokenizers` library."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        others = [
            each
            for name in ("tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
            for each in folder.glob(name)
        ]
        return hashlib.sha256(b"".join(each.read_bytes() for each in others)).hexdigest()
    try:
        tokenizer = json.loads(path.read_bytes())
        words = tokenizer["model"]["vocab"]
        # A unigram model has a list of pieces with their scores, each at its id.
        ids = words if isinstance(words, dict) else {piece: i for i, (piece, _) in enumerate(words)}
        ids = ids | {each["content"]: each["id"] for each in tokenizer.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: fetch the model again.") from error
    return hashlib.sha256(json.dumps(sorted(ids.items())).encode()).hexdigest()


def check_lengths(
    stage: Stage, fitted: Fitted, limit: Limits, *, is_context: bool, are_held_out: bool = False
) -> list[str]:
    """What is left out and what is cut. Raises TrainingError where nothing is left. `is_context`: it is the model that
    reads no more, and not the settings."""
    noun = f"held-out {NOUNS[stage]}" if are_held_out else NOUNS[stage]
    total = len(fitted.kept) + len(fitted.left_out)
    most = limit.tokens - limit.reserved
    readers = "the models read" if stage == "ppo" else "the model reads"
    room = f"{readers} {limit.tokens} tokens" if is_context else f"--max-tokens is {limit.tokens}"
    if not total:
        if are_held_out:
            raise TrainingError(f"There are no {noun} to measure on: raise --validation, or give 0 to measure nothing.")
        raise TrainingError(f"There are no {noun} to train on: name other data with --data.")
    if not fitted.kept:
        shortest = min(each.prompt for each in fitted.left_out)
        advice = (
            "take a model with a longer context" if is_context else f"raise it to {shortest + limit.reserved} or more"
        )
        advice += f", or lower --max-new-tokens ({limit.reserved})" if stage == "ppo" else ""
        advice += ", or give --validation 0 to measure nothing" if are_held_out else ""
        raise TrainingError(
            f"None of the {total} {noun} leaves room for an answer: {room}, and the shortest prompt has {shortest}: "
            f"{advice}."
        )
    notes = []
    if fitted.left_out:
        first = fitted.left_out[0]
        notes.append(
            f"{len(fitted.left_out)} of {total} {noun} are left out, since {room}, and prompts may have {most}: the "
            f"first is {first.name} with {first.prompt}."
        )
    if fitted.cut:
        first = fitted.cut[0]
        option = "--answer-tokens" if stage == "reward" else "--max-tokens"
        notes.append(
            f"{len(fitted.cut)} of {total} {noun} have answers that are cut ({option}): the first is {first.name} with "
            f"{first.prompt} + {max(first.answers)} tokens."
        )
    return notes


def check_scored(held_out: Sequence[Length], room: int) -> None:
    """Raises TrainingError where the reward model, which has `room` for prompt and answer, can score no answer to
    held-out prompts, and so choose no epoch by them."""
    if all(each.prompt + scored_tokens(room) > room for each in held_out):
        raise TrainingError(
            f"No held-out prompt and its answer fit into the {room} tokens that the reward model reads: take one with "
            "a longer context, or leave --reward-model out."
        )


def check_room(config: RunConfig, policy: Shape, reward: Shape | None, machine: Machine) -> list[str]:
    """Raises TrainingError where memory or disk are surely too small, which leaves out what a pass takes: that is
    estimated, and worth a note alone."""
    parts = memory(
        config, policy, reward,
        number_bytes=machine.number_bytes, tokens_per_pass=machine.tokens_per_pass,
        shards=machine.ranks if config.sharding == "full" else 1,
    )  # fmt: skip
    needed, free = sum(parts.values()) - parts["passes"], machine.free_memory
    if needed > free:
        raise TrainingError(
            f"Too little memory: {_said(parts)} need {needed / _GIB:.1f} GiB before the first pass, and "
            f"{free / _GIB:.1f} GiB are free on {machine.device}: {'' if config.lora else 'train adapters (--lora), '}"
            "take a smaller model, or another device."
        )
    files = disk(config, policy, reward, number_bytes=machine.number_bytes)
    if (written := sum(files.values())) > machine.free_disk:
        raise TrainingError(
            f"The disk is too full: {_said(files)} need {written / _GIB:.1f} GiB, and {machine.free_disk / _GIB:.1f} "
            "GiB are free: make room there, or set HONED_HOME to a folder on another disk."
        )
    if needed + parts["passes"] > free:
        return [
            f"Memory may not suffice: a pass of {machine.tokens_per_pass} tokens takes about "
            f"{parts['passes'] / _GIB:.1f} GiB more, of {(free - needed) / _GIB:.1f} GiB: lower --tokens-per-pass."
        ]
    return []


def _said(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({size / _GIB:.1f} GiB)" for name, size in parts.items() if name != "passes")
