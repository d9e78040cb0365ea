"""How a run's numbers are said: the names of its metrics, and numbers, shares and durations as a person reads them.

Owns labels and rounding, so that the progress bar, the report and the command line say the same. Measures nothing.
Invariant: every number is said in few characters, and one that is missing or not finite is said as a dash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MISSING: Final = "–"
_MINUS: Final = "−"


@dataclass(frozen=True, slots=True)
class Metric:
    """What a person calls a metric, what it is counted in, whether it is a share, said in per cent, and otherwise how
    many decimals are worth saying (None: as many as it takes)."""

    label: str
    unit: str = ""
    is_share: bool = False
    decimals: int | None = None


METRICS: Final[dict[str, Metric]] = {
    "loss": Metric("loss", decimals=3),
    "accuracy": Metric("accuracy", "of pairs", is_share=True),
    "reward": Metric("reward", "units of reward", decimals=2),
    "score": Metric("score", "units of reward", decimals=2),
    "kl": Metric("KL", "nats an answer", decimals=2),
    "kl_coefficient": Metric("KL coefficient", "reward a nat"),
    "entropy": Metric("entropy", "nats a token", decimals=2),
    "length": Metric("length", "tokens an answer", decimals=1),
    "ended": Metric("ended", "of answers", is_share=True),
    "margin": Metric("margin", "units of reward", decimals=2),
    "score_std": Metric("spread of the scores", "units of reward", decimals=2),
    "policy_loss": Metric("policy loss"),
    "value_loss": Metric("value loss", "reward squared"),
    "ptx_loss": Metric("pretraining loss", "nats a token"),
    "language_loss": Metric("language loss", "nats a token", decimals=3),
    "value_clip_fraction": Metric("clipped values", "of tokens", is_share=True),
    "clip_fraction": Metric("clipped", "of tokens", is_share=True),
    "approx_kl": Metric("KL of an update", "nats a token"),
    "explained_variance": Metric("explained variance"),
    "learning_rate": Metric("learning rate"),
    "grad_norm": Metric("gradient norm"),
}
# The group of a metric, as the report and the bar say it; other groups go by their own name.
_GROUPS: Final = {"ppo": "train", "train": "train", "validation": "validation", "test": "test"}


def metric(name: str) -> Metric:
    """What `group/name` is; a metric that nobody listed goes by its name."""
    own = name.rpartition("/")[2]
    return METRICS.get(own) or Metric(own.replace("_", " "))


def group(name: str) -> str:
    """Whose metric it is: `train` (PPO's rollouts too), `validation`, ..."""
    first = name.partition("/")[0] if "/" in name else ""
    return _GROUPS.get(first, first)


def said(name: str, value: float | None) -> str:
    """A metric's value, rounded as is usual for it: `71.2 %`, `−0.10`."""
    kind = metric(name)
    if kind.is_share:
        return percent(value)
    if value is None or kind.decimals is None or not math.isfinite(value):
        return number(value)
    rounded = round(value, kind.decimals) or 0.0  # no minus zero
    return f"{rounded:,.{kind.decimals}f}".replace("-", _MINUS)


def number(value: float | None, digits: int = 3) -> str:
    """To `digits` significant digits, whole numbers to all of theirs: `0.614`, `12.3`, `1,204`, `2.1e-5`."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if value == int(value) and size < 1e15:
        text = f"{size:,.0f}"
    elif size >= 1e7 or size < 1e-3:
        text = f"{size:.{digits - 1}g}".replace("e-0", "e-").replace("e+0", "e")
    elif size >= 10 ** (digits - 1):
        text = f"{size:,.0f}"
    else:
        text = f"{size:,.{digits - 1 - math.floor(math.log10(size))}f}".rstrip("0").rstrip(".")
    return (_MINUS if value < 0 else "") + text


def percent(share: float | None) -> str:
    """A share of 1 in per cent: `71.2 %`."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.1f} %".replace("-", _MINUS)


def amount(count: float) -> str:
    """A large count, short: `135 M`, `12.4 k`, `512`."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g} {letter}"
    return number(count)


def duration(seconds: float) -> str:
    """`42 s`, `12 min 4 s`, `3 h 20 min`, `2 d 4 h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
