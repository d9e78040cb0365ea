"""What a server says of itself: the states that `Service` (`policies.py`) goes through, and `/health` tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Health:
    status: Status
    model: str | None
    detail: str | None
