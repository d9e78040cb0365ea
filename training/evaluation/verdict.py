"""Whether the candidate goes into service: the rules, each with its numbers in words.

Owns nothing but the rules. Invariant: a measure that has a limit and breaks it, or a limit of one's own asking that
could not be measured, refuses; what could not be measured and was not asked for refuses nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from honed.training.evaluation.config import EvaluationConfig
from honed.training.reports.numbers import number, percent


@dataclass(frozen=True, slots=True)
class Rule:
    """What was measured, as a sentence, and whether it is within the `limit` of the setting `name`."""

    name: str
    sentence: str
    limit: str
    passed: bool


def rules(measured: Mapping[str, Any], config: EvaluationConfig) -> list[Rule]:
    """All that apply. `measured`: the result's measures by their keys."""
    return [*_wins(measured, config), *_regressions(measured, config), *_limits(measured, config)]


def win_rule(name: str, rate: Mapping[str, Any], least: float) -> Rule:
    """That a win rate's lower bound is over `least`."""
    passed = rate["low"] > least
    return Rule(
        "min_win_rate",
        f"The {name} is {percent(rate['mean'])} (95 % interval {percent(rate['low'])} to {percent(rate['high'])}): "
        f"its lower bound is {'over' if passed else 'not over'} {percent(least)}",
        f"lower bound over {percent(least)}",
        passed,
    )


def decide(found: list[Rule]) -> tuple[bool, list[str]]:
    """Whether all passed; the failed ones, or where there is none, all."""
    failed = [rule for rule in found if not rule.passed]
    return not failed, [f"{rule.sentence} ({rule.name}: {rule.limit})" for rule in failed or found]


def _wins(measured: Mapping[str, Any], config: EvaluationConfig) -> Iterator[Rule]:
    rates = [("length-controlled win rate", measured["length_controlled"])]
    if measured["external"] is not None:
        rates.append((f"win rate by {measured['external']['model']}", measured["external"]))
    yield from (win_rule(name, rate, config.min_win_rate) for name, rate in rates)


def _regressions(measured: Mapping[str, Any], config: EvaluationConfig) -> Iterator[Rule]:
    loss, instructions = measured["loss"], measured["instructions"]
    if loss["rise"] is not None:
        yield Rule(
            "max_loss_rise",
            f"The loss on held-out text went from {number(loss['incumbent'])} to {number(loss['candidate'])} nats a "
            "token",
            f"at most {number(config.max_loss_rise)} more",
            loss["rise"] <= config.max_loss_rise,
        )
    for key, name, noun, limit in (
        ("refusals", "max_refusal_rise", "answers that refuse", config.max_refusal_rise),
        ("repetition", "max_repetition_rise", "phrases that repeat", config.max_repetition_rise),
    ):
        each = measured[key]
        yield Rule(
            name,
            f"The share of {noun} went from {percent(each['incumbent'])} to {percent(each['candidate'])}",
            f"at most {percent(limit)} more",
            each["rise"] <= limit,
        )
    if instructions["difference"] is not None:
        yield Rule(
            "max_instruction_drop",
            f"The share of instructions that are followed went from {percent(instructions['incumbent'])} to "
            f"{percent(instructions['candidate'])}",
            f"at most {percent(config.max_instruction_drop)} fewer",
            -instructions["difference"] <= config.max_instruction_drop,
        )


def _limits(measured: Mapping[str, Any], config: EvaluationConfig) -> Iterator[Rule]:
    kl, ratio = measured["kl"], measured["lengths"]["ratio"]
    if config.max_kl is not None:
        said = f"The KL from the incumbent is {number(kl['mean'])} nats an answer"
        yield Rule(
            "max_kl",
            said if kl["mean"] is not None else str(kl["reason"]).removesuffix("."),
            f"at most {number(config.max_kl)}",
            kl["mean"] is not None and kl["mean"] <= config.max_kl,
        )
    if config.max_length_ratio is not None:
        said = "The incumbent's answers are empty" if ratio is None else (
            f"The answers are {number(ratio)} times as long as the incumbent's"
        )  # fmt: skip
        yield Rule(
            "max_length_ratio",
            said,
            f"at most {number(config.max_length_ratio)} times",
            ratio is not None and ratio <= config.max_length_ratio,
        )
