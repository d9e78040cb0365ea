"""A toy home for the gate: policies that answer with letters, a judge that likes some letters, and the data of both.

What the judge learns from, what the policies do and what they are asked are the three splits of the same words.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fakes import save_tiny_policy
from gold import LETTERS, gold, words
from toy_runs import write_rows

from honed.training.configs import RewardConfig, SFTConfig
from honed.training.evaluation.config import EvaluationConfig
from honed.training.runs import run

ANSWER_TOKENS = 6
SPLITS: dict[str, Any] = {"validation": 0.2, "test": 0.3}
SMALL: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_tokens": 256, **SPLITS}
POLICIES = {"incumbent": LETTERS, "good": "aab", "bad": "eff"}  # name -> the letters that it learns to answer with


def make_gated_home(home: Path) -> Path:
    """With the models tiny, incumbent, good, bad (policies), judge and optimised (reward models)."""
    save_tiny_policy(home / "models" / "tiny")
    draw = random.Random(1)
    asked = words(260)
    write_rows(home / "rankings.jsonl", (_ranking(word, draw) for word in asked))
    for name, letters in POLICIES.items():
        rows = ({"prompt": word, "completion": _any(letters, draw)} for word in asked)
        write_rows(home / f"{name}.jsonl", rows)
        config = SFTConfig(
            **SMALL, model="tiny", data=str(home / f"{name}.jsonl"), output=name, epochs=3, learning_rate=1e-2,
            tokens_per_pass=2048,
        )  # fmt: skip
        run(config, home=home, engine=None, show=False)
    for name, is_judge in (("judge", True), ("optimised", False)):
        config = RewardConfig(
            **SMALL, model="tiny", data=str(home / "rankings.jsonl"), output=name, batch_size=8, epochs=4,
            learning_rate=3e-3, judge=is_judge, tokens_per_pass=2048,
        )  # fmt: skip
        run(config, home=home, engine=None, show=False)
    return home


def gate(home: Path, **changes: Any) -> EvaluationConfig:
    """Good against the incumbent, with no room for instructions, which take the most time."""
    own = {
        "candidate": "good", "incumbent": "incumbent", "judge_model": "judge", "data": str(home / "rankings.jsonl"),
        "max_new_tokens": ANSWER_TOKENS, "max_tokens": 40,
    }  # fmt: skip
    return EvaluationConfig.model_validate(SMALL | own | changes)


def _any(letters: str, draw: random.Random) -> str:
    return "".join(draw.choices(letters, k=draw.randint(3, 5)))


def _ranking(word: str, draw: random.Random) -> dict[str, Any]:
    answers = list(dict.fromkeys(_any(LETTERS, draw) for _ in range(5)))
    best_first = sorted({gold(each) for each in answers}, reverse=True)
    return {"prompt": word, "answers": [{"text": each, "rank": best_first.index(gold(each)) + 1} for each in answers]}
