"""The hidden scorer of toy circles, and the words that its users ask."""

from __future__ import annotations

import random

LETTERS = "abcdef"


def gold(answer: str) -> float:
    """It likes a, somewhat b, and dislikes f and saying nothing."""
    return (answer.count("a") + 0.5 * answer.count("b") - answer.count("f")) / len(answer) if answer else -1.0


def words(count: int, seed: int = 0) -> list[str]:
    """Fewer where some were drawn twice."""
    draw = random.Random(seed)
    return list(dict.fromkeys("".join(draw.choices(LETTERS, k=4)) for _ in range(count)))
