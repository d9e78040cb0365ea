"""Who takes part in an evaluation: two policies and the judge, by their folders, and what they were made of.

Owns the refusals that need no data: a judge that is none, or that the candidate was trained against. Loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from honed.models.checkpoint import LINEAGE_FILE, Lineage, checkpoint_id, checkpoint_name
from honed.models.sources import pull
from honed.training.evaluation.config import EvaluationConfig
from honed.training.failures import TrainingError
from honed.training.planning.preflight import require_judge, stage_of
from honed.training.planning.prepare import lineage_of


@dataclass(frozen=True, slots=True)
class Member:
    """A checkpoint. `made_of`: its own lineage and those of what it was trained from and against, as far as they are
    here."""

    folder: Path
    name: str
    id: str
    made_of: tuple[Lineage, ...]

    def as_json(self) -> dict[str, str]:
        return {"name": self.name, "id": self.id}


@dataclass(frozen=True, slots=True)
class Party:
    """All folders are there, and each is what it has to be."""

    candidate: Member
    incumbent: Member
    judge: Member


def gather(config: EvaluationConfig, home: Path) -> Party:
    """Raises TrainingError, and SourceError for a model that is not there."""
    judge_folder = pull(config.judge_model, home)
    require_judge(judge_folder, option="--judge-model")
    known = {lineage.id: lineage for lineage in _lineages(home)}
    judge = _member(judge_folder, known)
    candidate = _policy(pull(config.candidate, home), known, option="--candidate")
    incumbent = _policy(pull(config.incumbent, home), known, option="--incumbent")
    for policy in (candidate, incumbent):
        if any(lineage.id == judge.id for lineage in policy.made_of):
            raise TrainingError(
                f"{policy.name} was trained against {judge.name}, which therefore cannot judge it: name another with "
                "--judge-model, from `honed train reward --judge`."
            )
    return Party(candidate, incumbent, judge)


def _policy(folder: Path, known: dict[str, Lineage], *, option: str) -> Member:
    if stage_of(folder) == "reward":
        raise TrainingError(f"{folder.name} is a reward model, which answers nothing: name a policy with {option}.")
    return _member(folder, known)


def _lineages(home: Path) -> Iterator[Lineage]:
    for path in sorted((home / "models").glob(f"*/{LINEAGE_FILE}")):
        lineage = lineage_of(path.parent)
        if lineage is not None:
            yield lineage


def _member(folder: Path, known: dict[str, Lineage]) -> Member:
    own = lineage_of(folder)
    by_name = {lineage.name: lineage for lineage in known.values()}
    found: dict[str, Lineage] = {}
    waiting = [own] if own is not None else []
    while waiting:
        lineage = waiting.pop()
        if lineage.id in found:
            continue
        found[lineage.id] = lineage
        parents = [known.get(lineage.parent or "")]
        if (against := lineage.settings.get("reward_model")) is not None:
            parents.append(by_name.get(Path(str(against)).name))
        waiting += [each for each in parents if each is not None]
    return Member(folder, checkpoint_name(folder), checkpoint_id(folder), tuple(found.values()))
