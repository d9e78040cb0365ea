"""What a run may be gone on with: its own settings, but for those that change no result, and a device that draws alike.

Owns the comparison of what a run was started with and what it is asked to go on with. Where its state is, and whether
its data are the same, is not asked here. Invariant: what goes on ends as what was left alone does, but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from honed.models.policy import choose_device
from honed.training.configs import KTOConfig, RunConfig, SFTConfig
from honed.training.failures import TrainingError
from honed.training.run import TOKENS_PER_PASS

# What a run is resumed with may differ in these: they change no result but by rounding.
_FREE_TO_CHANGE: Final = frozenset(("resume", "device", "tokens_per_pass", "save_every"))


def require_same_settings(
    name: str, started: Mapping[str, Any], config: RunConfig, *, is_learned: bool = False
) -> None:
    """Raises TrainingError where a run goes on with other settings than the `started` ones, as JSON has them.
    `is_learned`: it has its weights, and no pass is left to be made."""
    now = config.model_dump(mode="json")
    fixed = frozenset() if is_learned else _fixed_by_passes(config)
    if fixed:
        started, now = _written_out(started), _written_out(now)
    free = _FREE_TO_CHANGE - fixed
    names = [each for each in now if each not in free and each in started and started[each] != now[each]]
    if names:
        changes = ", ".join(
            f"--{each.replace('_', '-')} {_shown(started[each])}, not {_shown(now[each])}" for each in names
        )
        raise TrainingError(
            f"The run {name} was started with {changes}: give what it was started with, or begin another."
        )


def can_go_on(started: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether a run of the `started` settings would, on the device of `config`, go on as it began."""
    return "device" not in _fixed_by_passes(config) or kind_of(started["device"]) == kind_of(config.device)


def with_passes_of(started: Mapping[str, Any], config: RunConfig) -> RunConfig:
    """`config` with passes as large as the run has had, where another device would take others and they matter."""
    if "tokens_per_pass" not in _fixed_by_passes(config):
        return config
    return config.model_copy(update={"tokens_per_pass": _written_out(started)["tokens_per_pass"]})


def kind_of(device: str) -> str:
    """`cpu` or `cuda`: one GPU draws as another does."""
    return choose_device(device).type if device == "auto" else device.partition(":")[0]


def _fixed_by_passes(config: RunConfig) -> frozenset[str]:
    """What else would be free, and decides what is drawn for a pass. KTO estimates a divergence from the answers of
    one; dropout is drawn for one, by the device."""
    if isinstance(config, KTOConfig):
        return frozenset(("tokens_per_pass",))
    has_dropout = isinstance(config, SFTConfig) and config.dropout > 0
    return frozenset(("tokens_per_pass", "device")) if has_dropout else frozenset()


def _written_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the size of a pass where none is said, and the kind of the device, which has several names."""
    kind = kind_of(settings["device"])
    return {**settings, "device": kind, "tokens_per_pass": settings["tokens_per_pass"] or TOKENS_PER_PASS[kind]}


def _shown(value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, list | tuple):
        return ",".join(f"{each:g}" for each in value)
    return "unset" if value is None else str(value)
