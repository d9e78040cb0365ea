"""What is asked: held-out prompts that nothing was trained on, and held-out texts to measure the loss on.

Owns which prompts those are. That splits are drawn by user makes them so; here it is looked up as well, in the data
of everything that took part in training (`Party`), as far as those are still there. Invariant: the same data and
settings give the same prompts in the same order, and no prompt is there twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from honed.models.checkpoint import Lineage
from honed.server.store.exchange.records import Record, shown
from honed.server.store.prefixes import prefix_key
from honed.training.configs import STAGES, DataConfig
from honed.training.data.datasets import DataError, Dataset, Example, load_dataset
from honed.training.data.splits import Split, place
from honed.training.evaluation.config import LEAST, EvaluationConfig
from honed.training.evaluation.party import Member, Party
from honed.training.failures import TrainingError


@dataclass(frozen=True, slots=True)
class Questions:
    """`prompts` in the order in which they are taken, more than are asked. `demonstrations`: of one split; none for the
    reason `why_none`. `seen`: prompts that were left out since something was trained on them. `unknown`: names of
    checkpoints that are not known any more, or whose data are not there to be looked at."""

    dataset: Dataset
    prompts: list[Example]
    demonstrations: list[Example]
    why_none: str
    seen: int
    unknown: tuple[str, ...] = field(default=())


def load_questions(config: EvaluationConfig, party: Party, engine: Engine | None) -> Questions:
    """Raises TrainingError, also where the judge has learned from what the candidate was trained against."""
    own = DataConfig.model_validate(_data_settings(config.model_dump()))
    dataset = load_dataset(own, "ppo", engine)
    if config.people and dataset.snapshot_id is None:
        raise TrainingError(
            "--people: labelers see what is in the store, and these prompts are a file's. Import it (`honed import`), "
            "and leave out --data."
        )
    learned = _Learned(engine)
    _require_apart(party, learned)
    policies = learned.by(party.candidate, party.incumbent)
    known = policies | learned.by(party.judge)
    held_out = {prefix_key(each.record.prompt): each for each in dataset.of("validation")}
    kept = [key for key in held_out if key not in known]
    if len(kept) < LEAST:
        left = f" ({len(held_out) - len(kept)} more were trained on)" if len(kept) < len(held_out) else ""
        raise TrainingError(
            f"There are {len(kept)} held-out prompts{left}, and an evaluation needs {LEAST}: hold out more with "
            "--validation, or collect more."
        )
    kept.sort(key=lambda key: place(f"evaluation {key}", config.seed))
    demonstrations, why_none = _demonstrations(own, engine, policies)
    return Questions(
        dataset=dataset,
        prompts=[held_out[key] for key in kept],
        demonstrations=demonstrations,
        why_none=why_none,
        seen=len(held_out) - len(kept),
        unknown=tuple(learned.unknown),
    )


def _data_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in DataConfig.model_fields if name in settings}


def _demonstrations(config: DataConfig, engine: Engine | None, known: set[int]) -> tuple[list[Example], str]:
    """Of the test split, where there are some: SFT has chosen its epoch on those of the other. `known`: what the
    policies have learned from; that the judge knows a prompt of the test split changes no policy's loss."""
    try:
        dataset = load_dataset(config, "sft", engine, keep=False)
    except DataError as error:
        return [], f"There are no held-out demonstrations. ({_without_folders(str(error), config)})"
    splits: tuple[Split, ...] = ("test", "validation")
    for split in splits:
        if found := [each for each in dataset.of(split) if prefix_key(each.record.prompt) not in known]:
            return found, ""
    return [], "There are no held-out demonstrations."


def _without_folders(text: str, config: DataConfig) -> str:
    """Where a file lies is nobody's business who reads a result."""
    for path in (Path(each) for each in (config.data, config.validation_data) if each is not None):
        text = text.replace(shown(str(path), 300), path.name)
    return text


def _require_apart(party: Party, learned: _Learned) -> None:
    """A judge that knows the rankings that the candidate's reward model learned from likes what that one likes. A
    reward model that the incumbent comes from too favours neither."""
    judge = party.judge.made_of[:1]
    own = set().union(*(learned.from_(lineage, ("train", "validation")) for lineage in judge))
    in_both = {lineage.id for lineage in party.incumbent.made_of}
    against = [each for each in party.candidate.made_of if each.stage == "reward" and each.id not in in_both]
    for lineage in against:
        if both := own & learned.from_(lineage, ("train",)):
            raise TrainingError(
                f"{party.judge.name} learned from {len(both)} prompts that {lineage.name} was trained on, which "
                f"{party.candidate.name} was trained against: train a judge on others, with `honed train reward "
                "--judge` and the same --validation and --test."
            )


class _Learned:
    """The prompts of what checkpoints were trained on, each looked up once."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self._found: dict[str, Dataset | None] = {}
        self.unknown: dict[str, None] = {}  # in their order

    def by(self, *members: Member) -> set[int]:
        """What they were trained on."""
        self.unknown |= dict.fromkeys(name for each in members for name in each.lost)
        made_of = (lineage for each in members for lineage in each.made_of)
        return set().union(*(self.from_(lineage, ("train",)) for lineage in made_of))

    def from_(self, lineage: Lineage, splits: Sequence[Split]) -> set[int]:
        """Empty where the data are not there any more: those of a file that was changed, of another store."""
        if lineage.stage == "source":
            return set()
        if lineage.id not in self._found:
            self._found[lineage.id] = self._dataset(lineage)
            if self._found[lineage.id] is None:
                self.unknown[lineage.name] = None
        dataset = self._found[lineage.id]
        return set() if dataset is None else _keys(each.record for each in dataset.examples if each.split in splits)

    def _dataset(self, lineage: Lineage) -> Dataset | None:
        stage = next(stage for stage in STAGES if stage == lineage.stage)
        settings = _data_settings(dict(lineage.settings))
        is_file = Path(str(settings.get("data", ""))).is_file()
        try:
            if is_file:
                found = load_dataset(DataConfig.model_validate(settings), stage, None)
                return found if found.id == lineage.dataset else None
            if self._engine is None or lineage.dataset is None:
                return None
            return load_dataset(DataConfig.model_validate({"data": lineage.dataset}), stage, self._engine)
        except DataError:
            return None


def _keys(records: Iterable[Record]) -> set[int]:
    return {prefix_key(record.prompt) for record in records}
