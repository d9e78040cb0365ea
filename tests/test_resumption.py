"""What a run may be gone on with: which settings may change, and when passes and devices may."""

from __future__ import annotations

import json

import pytest
from test_preflight import refusal

from honed.training.configs import KTOConfig, RunConfig, SFTConfig
from honed.training.planning.resumption import can_go_on, require_same_settings, with_passes_of


def test_a_run_goes_on_with_the_settings_that_it_was_started_with() -> None:
    started = SFTConfig(epochs=3, device="cpu", stage_shares=(0.5, 0.25, 0.25))
    now = started.model_copy(update={"resume": True, "device": "cuda", "tokens_per_pass": 99, "save_every": 1})
    kept = json.loads(started.model_dump_json())
    require_same_settings("new", kept, now)
    other = now.model_copy(update={"epochs": 4, "reward_model": "judge", "stage_shares": (0.2, 0.45, 0.35)})
    assert refusal(require_same_settings, "new", kept, other) == (
        "The run new was started with --stage-shares 0.5,0.25,0.25, not 0.2,0.45,0.35, --epochs 3, not 4, "
        "--reward-model unset, not judge: give what it was started with, or begin another."
    )


def test_settings_that_a_newer_version_added_are_no_difference() -> None:
    kept = json.loads(SFTConfig().model_dump_json())
    del kept["dropout"]
    require_same_settings("new", kept, SFTConfig(dropout=0.1))


@pytest.mark.parametrize("config", [KTOConfig(tokens_per_pass=64), SFTConfig(tokens_per_pass=64, dropout=0.1)])
def test_what_is_drawn_for_a_pass_forbids_other_passes(config: RunConfig) -> None:
    started = config.model_dump(mode="json")
    require_same_settings("new", started, config)
    other = config.model_copy(update={"tokens_per_pass": 128})
    assert "--tokens-per-pass 64, not 128" in refusal(require_same_settings, "new", started, other)
    require_same_settings("new", started, other, is_learned=True)


def test_the_size_of_a_pass_is_known_where_it_is_not_said() -> None:
    started = KTOConfig(device="cpu").model_dump(mode="json")
    moved = KTOConfig(device="cuda:0")
    assert "--tokens-per-pass 512, not 8192" in refusal(require_same_settings, "new", started, moved)
    assert can_go_on(started, moved)
    fitted = with_passes_of(started, moved)
    assert fitted.tokens_per_pass == 512
    require_same_settings("new", started, fitted)
    assert with_passes_of(fitted.model_dump(mode="json"), KTOConfig(device="cpu")) == KTOConfig(
        device="cpu", tokens_per_pass=512
    )


def test_dropout_goes_on_where_it_is_drawn_alike() -> None:
    config = SFTConfig(dropout=0.1, device="cuda:0")
    started = config.model_dump(mode="json")
    for device, is_alike in (("cuda:1", True), ("cuda", True), ("cpu", False)):
        moved = with_passes_of(started, config.model_copy(update={"device": device}))
        assert can_go_on(started, moved) == is_alike
        if is_alike:
            require_same_settings("new", started, moved)
        else:
            assert "--device cuda, not cpu" in refusal(require_same_settings, "new", started, moved)
    other = SFTConfig(device="cpu")
    assert can_go_on(started, other)
    assert with_passes_of(started, other) == other, "without dropout a pass is as large as the device likes it"
