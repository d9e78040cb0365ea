"""The rules of the gate, each on its own: what they refuse, by which name, and what is within a limit."""

from __future__ import annotations

from typing import Any

import pytest

from honed.training.evaluation.config import EvaluationConfig
from honed.training.evaluation.verdict import decide, rules

SAME = {"candidate": 0.1, "incumbent": 0.1, "rise": 0.0}
GOOD: dict[str, Any] = {
    "length_controlled": {"mean": 0.7, "low": 0.6, "high": 0.8},
    "external": None,
    "kl": {"mean": 4.0, "standard_error": 0.3},
    "loss": {"candidate": None, "incumbent": None, "rise": None, "reason": "There is none."},
    "refusals": SAME,
    "repetition": SAME,
    "instructions": {"candidate": 0.3, "incumbent": 0.3, "difference": 0.0},
    "lengths": {"ratio": 1.2},
}


def gate(**limits: float) -> EvaluationConfig:
    names = {"candidate": "a", "incumbent": "b", "judge_model": "c"}
    return EvaluationConfig.model_validate(names | limits)


def test_a_pass_says_what_it_goes_by() -> None:
    promote, reasons = decide(rules(GOOD, gate()))
    assert promote is True
    assert reasons[0] == (
        "The length-controlled win rate is 70.0 % (95 % interval 60.0 % to 80.0 %): its lower bound is over 50.0 % "
        "(min_win_rate: lower bound over 50.0 %)"
    )
    assert len(reasons) == 4, "the loss was not measured, and KL and length have no limit"


@pytest.mark.parametrize(("low", "promote"), [(0.51, True), (0.5, False)])
def test_a_second_judge_has_a_rule_of_its_own(low: float, promote: bool) -> None:
    external = {"mean": 0.6, "low": low, "high": 0.7, "model": "large"}
    found, reasons = decide(rules(GOOD | {"external": external}, gate()))
    assert found is promote
    assert any("The win rate by large is 60.0 %" in reason for reason in reasons)


def test_a_limit_of_ones_own_asking_refuses_what_could_not_be_measured() -> None:
    nothing = {"kl": {"mean": None, "reason": "Other tokens."}, "lengths": {"ratio": None}}
    assert decide(rules(GOOD | nothing, gate()))[0] is True
    promote, reasons = decide(rules(GOOD | nothing, gate(max_kl=100, max_length_ratio=9)))
    assert promote is False
    assert reasons == [
        "Other tokens (max_kl: at most 100)",
        "The incumbent's answers are empty (max_length_ratio: at most 9 times)",
    ]


RISE = {"candidate": 0.3, "incumbent": 0.1, "rise": 0.2}
BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> the limit, and what was measured
    "min_win_rate": ({"min_win_rate": 0.99}, {}),
    "max_loss_rise": ({"max_loss_rise": 0.1}, {"loss": RISE}),
    "max_refusal_rise": ({"max_refusal_rise": 0.1}, {"refusals": RISE}),
    "max_repetition_rise": ({"max_repetition_rise": 0.1}, {"repetition": RISE}),
    "max_instruction_drop": (
        {"max_instruction_drop": 0.1},
        {"instructions": {"candidate": 0.1, "incumbent": 0.3, "difference": -0.2}},
    ),
    "max_kl": ({"max_kl": 0.1}, {}),
    "max_length_ratio": ({"max_length_ratio": 0.1}, {}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_refuses_alone_and_by_its_name(name: str) -> None:
    limit, measured = BROKEN[name]
    promote, reasons = decide(rules(GOOD | measured, gate(**limit)))
    assert promote is False
    assert [f"({name}: " in reason for reason in reasons] == [True], reasons
    loose = {"min_win_rate": 0.1}.get(name, 100.0)
    assert decide(rules(GOOD | measured, gate(**{name: loose})))[0] is True


def test_what_is_at_its_limit_is_within_it() -> None:
    at_limit = {"loss": RISE, "refusals": RISE, "repetition": RISE}
    limits = dict.fromkeys(("max_loss_rise", "max_refusal_rise", "max_repetition_rise"), 0.2)
    assert decide(rules(GOOD | at_limit, gate(**limits)))[0] is True
    rate = GOOD["length_controlled"] | {"low": 0.5}
    assert decide(rules(GOOD | {"length_controlled": rate}, gate()))[0] is False, "not over it"
