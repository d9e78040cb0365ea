"""Which plots a run's report has: those whose numbers the run measured, the ones that tell most first.

Owns the choice, the order and the words around each plot. How a plot looks is in `plots.py`. Invariant: every metric
that was logged is in one plot, whether it is listed here or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from honed.training.reports import plots
from honed.training.reports.findings import Results, series
from honed.training.reports.numbers import metric, number
from honed.training.reports.plots import BLUE, GREEN, ORANGE, Bar, Limit, Line

_COUNTERS: Final = {"step", "tokens", "seconds"}
_LOSS_UNITS: Final = {"sft": "nats a token", "reward": "nats a pair", "dpo": "nats a pair"}
_MOST_BARS: Final = 12
_MOST_DOTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot with its title and what to look for in it; `is_detail` where few will look."""

    title: str
    caption: str
    svg: str
    is_detail: bool = False


@dataclass(frozen=True, slots=True)
class _Curves:
    title: str
    caption: str
    lines: tuple[tuple[str, str, str], ...]  # metric, label, colour
    limits: tuple[tuple[str, str], ...] = ()  # setting, label
    is_detail: bool = False


_CURVES: Final = (
    _Curves(
        "Score and reward",
        "The score is the reward model's; the reward is what is left of it after the cost of moving away.",
        (("ppo/score", "score", BLUE), ("ppo/reward", "reward", GREEN), ("validation/score", "held out", ORANGE)),
    ),
    _Curves(
        "Distance from the start (KL)",
        "How far the answers have moved. Beyond its budget a run stops itself: the reward model knows no such answers.",
        (("ppo/kl", "rollouts", BLUE), ("validation/kl", "held out", ORANGE)),
        (("kl_target", "target"), ("kl_budget", "budget")),
    ),
    _Curves(
        "Loss",
        "Held-out loss that rises while the training loss falls is overfitting.",
        (("train/loss", "train", BLUE), ("validation/loss", "held out", ORANGE)),
    ),
    _Curves(
        "Accuracy",
        "Pairs in which the better answer is put first; chance is 50 %.",
        (("train/accuracy", "train", BLUE), ("validation/accuracy", "held out", ORANGE)),
    ),
    _Curves(
        "Margin",
        "How much more the better answer of a pair is rewarded.",
        (("train/margin", "train", BLUE), ("validation/margin", "held out", ORANGE)),
    ),
    _Curves(
        "Length of the answers",
        "Growth together with the score may mean that only length is rewarded.",
        (("ppo/length", "rollouts", BLUE), ("validation/length", "held out", ORANGE)),
    ),
    _Curves(
        "Entropy",
        "How undecided the policy is. Near zero it says the same thing over and over.",
        (("ppo/entropy", "", BLUE),),
    ),
    _Curves(
        "Policy loss",
        "Of the clipped objective: its trend says little, a jump says much.",
        (("ppo/policy_loss", "", BLUE),),
    ),
    _Curves("Value loss", "How wrong the value network's forecasts are.", (("ppo/value_loss", "", BLUE),)),
    _Curves(
        "Clipped updates",
        "Tokens whose probability or value was to move further than one update may.",
        (("ppo/clip_fraction", "policy", BLUE), ("ppo/value_clip_fraction", "values", GREEN)),
    ),
    _Curves(
        "Explained variance",
        "How well the value network foresees the reward: 1 is perfectly, 0 no better than its mean.",
        (("ppo/explained_variance", "", BLUE),),
    ),
    _Curves(
        "Answers that ended by themselves",
        "The rest were cut at the limit of tokens.",
        (("ppo/ended", "rollouts", BLUE), ("validation/ended", "held out", ORANGE)),
    ),
    _Curves(
        "Loss on texts",
        "Texts that are no rollouts: where their loss rises, the model unlearns its language.",
        (("ppo/ptx_loss", "pretraining", BLUE), ("validation/language_loss", "held out", ORANGE)),
    ),
    _Curves(
        "Spread of the scores",
        "Standard deviation over the answers.",
        (("ppo/score_std", "rollouts", BLUE), ("validation/score_std", "held out", ORANGE)),
        is_detail=True,
    ),
    _Curves("KL of one update", "", (("ppo/approx_kl", "", BLUE),), is_detail=True),
    _Curves("KL coefficient", "What a nat costs.", (("ppo/kl_coefficient", "", BLUE),), is_detail=True),
    _Curves("Learning rate", "", (("train/learning_rate", "", BLUE),), is_detail=True),
    _Curves(
        "Gradient norm",
        "Before it is scaled down.",
        (("train/grad_norm", "", BLUE), ("ppo/grad_norm", "policy", BLUE), ("ppo/value_grad_norm", "value", GREEN)),
        (("max_grad_norm", "limit"),),
        is_detail=True,
    ),
)


def panels(results: Results) -> list[Panel]:
    """All plots of a run, first those of its end, then its curves, the details last."""
    listed = {name for curves in _CURVES for name, _, _ in curves.lines}
    logged = dict.fromkeys(name for line in results.metrics for name in line if name not in _COUNTERS)
    others = [_Curves(name, "", ((name, "", BLUE),), is_detail=True) for name in logged if name not in listed]
    drawn = [_curves_panel(f"curve{n}", each, results) for n, each in enumerate((*_CURVES, *others))]
    return _evaluation_panels(results.evaluation) + [panel for panel in drawn if panel is not None]


def _curves_panel(name: str, curves: _Curves, results: Results) -> Panel | None:
    settings, stage = results.facts.get("settings") or {}, str(results.facts.get("stage"))
    lines = [Line(label, *series(results.metrics, each), color) for each, label, color in curves.lines]
    lines = [line for line in lines if any(value == value for value in line.values)]
    if not lines:
        return None
    limits = [Limit(label, float(settings[key])) for key, label in curves.limits if settings.get(key) is not None]
    first = metric(curves.lines[0][0])
    unit = _LOSS_UNITS.get(stage, "") if curves.title == "Loss" else first.unit
    if first.label == "accuracy":
        limits.append(Limit("chance", 0.5))
    svg = plots.curves(name, curves.title, lines, unit=unit, limits=limits, is_share=first.is_share)
    return Panel(curves.title, curves.caption, svg, curves.is_detail)


def _evaluation_panels(evaluation: Mapping[str, Any]) -> list[Panel]:
    found = []
    if bins := [(each["predicted"], each["observed"], each["pairs"]) for each in evaluation.get("calibration") or ()]:
        title = "Calibration"
        caption = "How often it is right, by how sure it is. The dashed line is perfect; below it, it is too sure."
        found.append(Panel(title, caption, plots.calibration("calibration", title, bins)))
    if dots := [(length, reward) for length, reward in evaluation.get("reward_by_length") or ()]:
        title = "Reward against length"
        caption = "Each dot an answer. A slope means that length itself is paid."
        if len(dots) > _MOST_DOTS:
            stride = -(-len(dots) // _MOST_DOTS)
            dots, caption = dots[::stride], f"{caption} One answer in {stride} is shown."
        svg = plots.scatter("length", title, dots, x_label="tokens of the answer", y_label="reward")
        found.append(Panel(title, caption, svg))
    for key, title in (("by_labeler", "Accuracy by labeler"), ("by_source", "Accuracy by source")):
        if shares := evaluation.get(key):
            found.append(_bars_panel(key, title, shares))
    return found


def _bars_panel(key: str, title: str, shares: Mapping[str, Mapping[str, Any]]) -> Panel:
    ordered = sorted(shares.items(), key=lambda item: (-item[1]["pairs"], item[0]))
    rows = [Bar(name, each["accuracy"], each["pairs"]) for name, each in ordered[:_MOST_BARS]]
    caption = "With 95 % intervals, as if pairs were independent; the dashed line is chance."
    if len(ordered) > _MOST_BARS:
        caption += f" The {_MOST_BARS} with most pairs of {number(len(ordered))}."
    return Panel(title, caption, plots.bars(key.replace("_", "-"), title, rows, counted="pairs"))
