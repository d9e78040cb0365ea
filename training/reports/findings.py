"""What came of a run, in words: one sentence, and the few numbers that a person asks for first.

Owns which numbers these are, stage by stage. Draws nothing (`figures.py`) and writes nothing (`report.py`). Reads what
the run's folder holds, and makes do with what is there: a run that failed early has hardly anything.
Invariant: a sentence says only what was measured, on held-out data where there is any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from honed.training.reports.numbers import group, metric, number, percent, said
from honed.training.reports.plots import correlation
from honed.training.reports.tracking import read_lines, read_metrics

RUN_FILE: Final = "run.json"
EVALUATION_FILE: Final = "evaluation.json"
SAMPLES_FILE: Final = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Results:
    """What a run's folder holds: run.json, metrics.jsonl, evaluation.json and samples.jsonl."""

    facts: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A number that a person asks for first, and what to know about it."""

    label: str
    value: str
    note: str = ""


def read_results(folder: Path) -> Results:
    """Raises FileNotFoundError where there is no run.json, ValueError where a file is damaged."""
    path = folder / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not the folder of a training run.")
    evaluation = folder / EVALUATION_FILE
    return Results(
        facts=_read_object(path),
        metrics=read_metrics(folder),
        evaluation=_read_object(evaluation) if evaluation.is_file() else {},
        samples=read_lines(folder / SAMPLES_FILE),
    )


def headline(results: Results) -> str:
    """What happened, in a sentence or two."""
    reason = str(results.facts.get("reason") or "no reason was given").rstrip(". :")
    outcome = {"stopped": f"Stopped early: {reason}.", "failed": f"Failed: {reason}."}.get(
        results.facts.get("status", "")
    )
    result = _result(results)
    if outcome is None:
        return result or "Finished, and measured nothing."
    return f"{outcome} Until then: {result[0].lower()}{result[1:]}" if result else outcome


def key_numbers(results: Results) -> list[KeyNumber]:
    """What was measured, then what else the stage sums up."""
    found: dict[str, KeyNumber] = {}
    for each in (*_measured(results), *_summed_up(results.facts.get("summary") or {})):
        found.setdefault(each.label.casefold(), each)
    return list(found.values())


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of a metric, the last where a step has two: of the weights that were kept. A value that was
    not finite is NaN."""
    found = {line["step"]: line[name] for line in metrics if name in line}
    return list(found), [float("nan") if value is None else float(value) for value in found.values()]


def start_and_end(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float] | None:
    """A metric's finite values at the start and at the end of the run; None where it has fewer than two.

    Single values where it was measured on held-out data, means of a tenth where it is one batch's, which is noisy.
    """
    values = [value for value in series(metrics, name)[1] if value == value]
    if len(values) < 2:
        return None
    some = 1 if name.startswith("validation/") else max(1, len(values) // 10)
    return sum(values[:some]) / some, sum(values[-some:]) / some


def length_correlation(evaluation: Mapping[str, Any]) -> float | None:
    """Pearson's correlation of a reward model's rewards with the lengths of what it judged."""
    return correlation([(length, reward) for length, reward in evaluation.get("reward_by_length") or ()])


def calibration_error(evaluation: Mapping[str, Any]) -> float | None:
    """The mean distance of predicted from observed shares over all pairs (Guo et al. 2017, equation 3)."""
    bins = evaluation.get("calibration") or []
    pairs = sum(each["pairs"] for each in bins)
    return sum(each["pairs"] * abs(each["predicted"] - each["observed"]) for each in bins) / pairs if pairs else None


def _result(results: Results) -> str:
    evaluation = results.evaluation
    if (accuracy := evaluation.get("accuracy")) is not None:
        low, high = evaluation.get("accuracy_low"), evaluation.get("accuracy_high")
        interval = "" if low is None or high is None else f" (95 % interval {percent(low)} to {percent(high)})"
        count = evaluation.get("pairs")
        pairs = "the pairs" if count is None else f"{number(count)} pairs"
        return f"Picks the better answer in {percent(accuracy)} of {pairs} held out{interval}."
    for name, subject in _SUBJECTS:
        if ends := _ends(results, name):
            return f"{subject} {_went(name, *ends)}{_in_deviations(results, name)}{_at_what_cost(results, name)}."
    return ""


_SUBJECTS: Final = (
    ("validation/score", "The score on prompts held out"),
    ("ppo/score", "The score"),
    ("ppo/reward", "The reward"),
    ("validation/accuracy", "Accuracy on pairs held out"),
    ("validation/loss", "Loss on data held out"),
    ("train/loss", "Loss on the training data"),
)


def _went(name: str, start: float, end: float) -> str:
    first, last = said(name, start), said(name, end)
    if first == last:
        return f"stayed at {first}"
    return f"{'rose' if end > start else 'fell'} from {first} to {last}"


def _in_deviations(results: Results, name: str) -> str:
    """A score's unit says little to a person; how much the answers differed before is a measure of what was gained."""
    spread, ends = start_and_end(results.metrics, f"{name}_std"), _ends(results, name)
    if spread is None or ends is None or spread[0] == 0:
        return ""
    return f", by {number(abs(ends[1] - ends[0]) / spread[0], 2)} standard deviations of the answers before"


def _at_what_cost(results: Results, name: str) -> str:
    """A score alone says little: how far the answers moved for it, and whether they only grew longer."""
    if not name.endswith(("/score", "/reward")):
        return ""
    moved = _ends(results, "validation/kl") or _ends(results, "ppo/kl")
    lengths = _ends(results, "validation/length") or _ends(results, "ppo/length")
    costs = [f"at a KL of {number(moved[1], 2)} nats"] if moved else []
    if lengths and lengths[0]:
        growth = lengths[1] / lengths[0] - 1
        size = f"{abs(growth):.0%}".replace("%", " %")
        costs += [f"with answers {size} {'longer' if growth > 0 else 'shorter'}"] if size != "0 %" else []
    return f", {' and '.join(costs)}" if costs else ""


def _measured(results: Results) -> list[KeyNumber]:
    evaluation, found = results.evaluation, []
    if (accuracy := evaluation.get("accuracy")) is not None:
        low, high = evaluation.get("accuracy_low"), evaluation.get("accuracy_high")
        note = "" if low is None or high is None else f"95 % interval {percent(low)} to {percent(high)}"
        found.append(KeyNumber("Accuracy", percent(accuracy), note))
    if (error := calibration_error(evaluation)) is not None:
        found.append(KeyNumber("Calibration error", percent(error), "mean distance from the diagonal"))
    if (r := length_correlation(evaluation)) is not None:
        found.append(KeyNumber("Reward and length", f"r = {number(r, 2)}", "0: length does not pay"))
    for name in _KEY_METRICS:
        if ends := _ends(results, name):
            held_out = "held out, " if name.startswith("validation/") else ""
            found.append(KeyNumber(_label(name), said(name, ends[1]), f"{held_out}from {said(name, ends[0])}"))
    scored = [(each["score_before"], each["score_after"]) for each in results.samples if _is_scored(each)]
    if scored:
        better = sum(after > before for before, after in scored)
        found.append(KeyNumber("Samples that improved", f"{better} of {len(scored)}", "by the reward model's score"))
    return found


_KEY_METRICS: Final = (
    "validation/score", "ppo/score", "ppo/reward", "validation/kl", "ppo/kl", "validation/length", "ppo/length",
    "ppo/ended", "validation/accuracy", "validation/loss", "train/loss",
)  # fmt: skip


def _is_scored(sample: Mapping[str, Any]) -> bool:
    return sample.get("score_before") is not None and sample.get("score_after") is not None


def _ends(results: Results, name: str) -> tuple[float, float] | None:
    """`start_and_end`, the end as the stage sums it up: of the checkpoint, which need not be the last step's."""
    ends = start_and_end(results.metrics, name)
    kept = (results.facts.get("summary") or {}).get(name)
    return (ends[0], float(kept)) if ends and isinstance(kept, int | float) else ends


def _summed_up(summary: Mapping[str, Any]) -> list[KeyNumber]:
    """The ends of an interval are said with what they are the ends of."""
    names = [name for name in summary if not (name.endswith(("_low", "_high")) and name.rpartition("_")[0] in summary)]
    return [KeyNumber(_label(name), _value(name, summary[name]), _HELD_OUT.get(group(name), "")) for name in names]


def _label(name: str) -> str:
    label = metric(name).label
    return label[:1].upper() + label[1:]


def _value(name: str, value: object) -> str:
    return said(name, value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


_HELD_OUT: Final = {"validation": "held out", "test": "held out from all"}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} is damaged: it does not hold a JSON object.")
    return read
