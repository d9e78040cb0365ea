"""What a run of these settings on these data has before it, found out before a weight is loaded.

Owns which folders and texts are looked at, and in which order; the checks are `preflight.py`'s and
`preference_checks.py`'s. Invariant: `--dry-run`, a run, and a circle of several runs refuse the same, since all of them
look here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from honed.models.policy import load_tokenizer
from honed.models.sources import pull
from honed.training.configs import DPOConfig, KTOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig, Stage
from honed.training.data.datasets import Dataset, Example
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.groups import says_nothing
from honed.training.planning.architectures import require_known
from honed.training.planning.estimates import Shape, Work, context_length, read_shape, work
from honed.training.planning.lengths import Length, Limits, fit, limits, measured
from honed.training.planning.machine import Machine, this_machine
from honed.training.planning.preference_checks import check_preferences
from honed.training.planning.preflight import preflight
from honed.training.pretraining import load_pretraining


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`policy` and `reward_model`: folders, and `shape` and `judge` their models' sizes."""

    policy: Path
    reward_model: Path | None
    shape: Shape
    judge: Shape | None
    machine: Machine
    limit: Limits
    work: Work
    notes: tuple[str, ...]


def look_ahead(stage: Stage, config: RunConfig, dataset: Dataset, home: Path) -> Outlook:
    """Raises TrainingError, SourceError and PolicyError for what would end the run later."""
    policy, reward_model = pull(config.model, home), _reward_model(config, home)
    require_known(policy)
    machine = this_machine(config, home)
    tokenizer = load_tokenizer(policy)
    shape = read_shape(policy)
    judge = None if reward_model is None else read_shape(reward_model)
    limit = limits(config, context_length(config, shape, judge))
    lengths = measured(tokenizer, stage, dataset.of("train"))
    wants_held_out = bool(dataset.card.settings["validation"])
    held_out = measured(tokenizer, stage, dataset.of("validation")) if wants_held_out else None
    notes: list[str] = []
    if isinstance(config, RewardConfig):
        encoder = Encoder(tokenizer, limit.tokens, limit.answer)
        lengths, notes = _telling(lengths, dataset.of("train"), encoder)
        if held_out is not None:
            held_out, more = _telling(held_out, dataset.of("validation"), encoder, held_out=True)
            notes += more
    notes += preflight(
        stage, config, lengths, held_out, policy=policy, reward_model=reward_model, machine=machine
    )  # fmt: skip
    if isinstance(config, DPOConfig | KTOConfig):
        check_preferences(config, dataset.of("train"), tokenizer, limit.tokens)
    if isinstance(config, PPOConfig) and config.pretraining is not None:
        load_pretraining(Path(config.pretraining), tokenizer)  # to be read again when it is needed
    return Outlook(
        policy=policy,
        reward_model=reward_model,
        shape=shape,
        judge=judge,
        machine=machine,
        limit=limit,
        work=work(config, fit(lengths, limit).kept, shape, judge),
        notes=tuple(notes),
    )


def _telling(
    lengths: list[Length], rankings: Sequence[Example], encoder: Encoder, *, held_out: bool = False
) -> tuple[list[Length], list[str]]:
    """Those of the rankings that say something, and a note on the others. Raises TrainingError where none does."""
    silent = [says_nothing(each, encoder) for each in rankings]
    if not any(silent):
        return lengths, []
    called, remedy = "rankings", "raise these"
    if held_out:
        called, remedy = "held-out rankings", "raise these, or measure nothing (--validation 0)"
    found = (
        f"{sum(silent)} of {len(silent)} {called} say nothing, since their answers do not differ in what is read of "
        f"them: their first {encoder.answer_tokens} tokens (--answer-tokens), with the prompt no more than "
        f"{encoder.max_tokens} (--max-tokens, and what the model reads)"
    )
    if all(silent):
        raise TrainingError(f"{found}: {remedy}.")
    return [length for length, is_silent in zip(lengths, silent, strict=True) if not is_silent], [f"{found}."]


def _reward_model(config: RunConfig, home: Path) -> Path | None:
    name = config.reward_model if isinstance(config, SFTConfig | PPOConfig) else None
    return None if name is None else pull(name, home)
