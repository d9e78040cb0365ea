"""Fine-tuning orders as settings of runs: OpenAI's words and ours, the name of what is made, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_runs import write_rows

from honed.training.configs import DPOConfig, PPOConfig, RunConfig, SFTConfig
from honed.training.failures import TrainingError
from honed.training.orders import model_name, result, run_config

JOB = "ftjob-0123456789abcdef0123456789abcdef"


def order(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny", "method": "supervised", "training_file": "file-1", "suffix": "ours"} | changes


def config(**changes: Any) -> RunConfig:
    return run_config(JOB, order(**changes), {}, data="rows.jsonl", device="cpu", resume=False)


def test_an_order_that_says_nothing_has_the_defaults() -> None:
    expected = SFTConfig(model="tiny", output="ft:tiny:ours:89abcdef", data="rows.jsonl", device="cpu")
    assert config() == expected
    assert config(hyperparameters={}, settings={}, seed=None, reward_model=None) == expected


def test_hyperparameters_and_settings_become_settings() -> None:
    asked = config(
        hyperparameters={"n_epochs": 5, "batch_size": 2, "learning_rate_multiplier": 2},
        settings={"max_tokens": 64, "lora": True},
        seed=7,
    )
    assert isinstance(asked, SFTConfig)
    assert (asked.epochs, asked.batch_size, asked.max_tokens, asked.lora, asked.seed) == (5, 2, 64, True, 7)
    assert asked.learning_rate == 2 * SFTConfig().learning_rate


def test_a_file_to_measure_on_is_in_the_place_of_a_share() -> None:
    def measured(**settings: Any) -> RunConfig:
        given = order(settings=settings)
        return run_config(JOB, given, {}, data="rows.jsonl", validation_data="held.jsonl", device="cpu", resume=False)

    assert measured().validation_data == "held.jsonl"
    assert config().validation_data is None
    for name, value in (("validation", 0.2), ("validation", 0), ("test", 3), ("judge", True)):
        with pytest.raises(TrainingError, match=f"nothing is held out: leave out {name}"):
            measured(**{name: value})


def test_each_method_has_its_stage() -> None:
    preferred = config(method="dpo", hyperparameters={"beta": 0.5})
    assert isinstance(preferred, DPOConfig)
    assert preferred.beta == 0.5
    reinforced = config(method="ppo", reward_model="judge", settings={"iterations": 3})
    assert isinstance(reinforced, PPOConfig)
    assert (reinforced.reward_model, reinforced.iterations) == ("judge", 3)


@pytest.mark.parametrize(
    ("model", "suffix", "expected"),
    [
        ("tiny", "ours", "ft:tiny:ours:89abcdef"),
        ("tiny", None, "ft:tiny::89abcdef"),
        ("org/tiny", "x", "ft:tiny:x:89abcdef"),
        ("ft:tiny:ours:00000000", "again", "ft:tiny:again:89abcdef"),
    ],
)
def test_names(model: str, suffix: str | None, expected: str) -> None:
    assert model_name(JOB, order(model=model, suffix=suffix)) == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"nonsense": 1}}, "settings: nonsense"),
        ({"settings": {"epochs": 1}, "hyperparameters": {"n_epochs": 2}}, "settings: epochs is in the hyperparameters"),
        ({"settings": {"seed": 1}}, "settings: seed is the job's own"),
        ({"settings": {"max_tokens": "many"}}, "max_tokens"),
        ({"settings": {"output": "elsewhere"}}, "settings: output is the job's own"),
        ({"settings": {"data": "/etc/passwd", "model": "x"}}, "settings: model, data"),
        ({"settings": {"validation_data": "/etc/passwd"}}, "settings: validation_data is the job's own"),
        ({"settings": {"pretraining": "/etc/passwd"}, "method": "ppo"}, "settings: pretraining"),
        ({"method": "ppo", "reward_model": "judge", "hyperparameters": {"n_epochs": 2}}, "epochs"),
        ({"hyperparameters": {"beta": 0.1}}, "beta"),
    ],
)
def test_what_cannot_be_carried_out_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        config(**changes)


def test_texts_for_ppo_are_what_the_worker_s_operator_names(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"

    def config_of(method: str, path: str = str(texts)) -> RunConfig:
        given = order(method=method, reward_model="judge" if method == "ppo" else None)
        environment = {"HONED_PRETRAINING": path}
        return run_config(JOB, given, environment, data="rows.jsonl", device="cpu", resume=False)

    assert isinstance(config_of("supervised"), SFTConfig)
    with pytest.raises(TrainingError, match=r"HONED_PRETRAINING: .*texts\.jsonl cannot be read"):
        config_of("ppo")
    write_rows(texts, [{"text": "once"}] * 9)
    with pytest.raises(TrainingError, match=r"HONED_PRETRAINING: .*texts\.jsonl has 9 texts"):
        config_of("ppo")
    write_rows(texts, [{"text": "once"}] * 10)
    mixed, without = config_of("ppo"), config_of("ppo", path="")
    assert isinstance(mixed, PPOConfig)
    assert isinstance(without, PPOConfig)
    assert (mixed.pretraining, without.pretraining) == (str(texts), None)


def test_a_result_has_the_last_step(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "tokens": 10, "seconds": 1.0, "train/loss": 2.0},
        {"step": 2, "tokens": 20, "seconds": 2.0, "train/loss": 1.5},
        {"step": 2, "tokens": 20, "seconds": 2.5, "validation/loss": 1.75},
    ]
    write_rows(tmp_path / "metrics.jsonl", lines)
    measured = {"train/loss": 1.5, "validation/loss": 1.75}
    assert result(tmp_path, "ft:tiny::1") == {
        "fine_tuned_model": "ft:tiny::1",
        "trained_tokens": 20,
        "checkpoints": [{"step": 2, "metrics": measured}],
    }
