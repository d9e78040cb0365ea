"""What may be kept of a request: whether it can be retrieved, and whether a model may be trained on it.

The server has a rule (`HONED_LOGGING`), a key may have its own, and a request decides for itself: OpenAI's `store`, and
the header `x-honed-training: allow | deny`. A denial always wins. (What an end user said of training is looked up when
the completion is stored: `server/store/ingest.py`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from honed.server.errors import InvalidValue, UnsupportedValue

TRAINING_HEADER = "x-honed-training"

LoggingMode = Literal["all", "opt_in", "off"]


@dataclass(frozen=True, slots=True)
class Consent:
    """A completion of which neither holds is not written down at all."""

    retrievable: bool
    trainable: bool

    @property
    def is_kept(self) -> bool:
        return self.retrievable or self.trainable


def decide(mode: LoggingMode, *, store: bool | None, training: str | None, key_denies_training: bool) -> Consent:
    """`store` is the request's, `training` the header's value. Raises InvalidValue for another header, and
    UnsupportedValue where something is to be kept on a server that keeps nothing."""
    if training not in (None, "allow", "deny"):
        raise InvalidValue(f"Invalid header '{TRAINING_HEADER}': it is 'allow' or 'deny'.", param=TRAINING_HEADER)
    if mode == "off":
        _require_nothing(store, training)
        return Consent(retrievable=False, trainable=False)
    retrievable = store is True or (store is None and mode == "all")
    may_train = training != "deny" and not key_denies_training
    return Consent(retrievable, trainable=may_train and (retrievable or training == "allow"))


def _require_nothing(store: bool | None, training: str | None) -> None:
    asked = "store" if store else TRAINING_HEADER if training == "allow" else None
    if asked is not None:
        raise UnsupportedValue(
            f"Unsupported value for '{asked}': this server keeps no completions (HONED_LOGGING=off).", param=asked
        )
