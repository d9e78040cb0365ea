"""Runs that are killed, `kill -9`, and gone on from: the same weights, bit for bit, as of a run left alone, and nothing
half-written. From a store, what was there when the run began is what it goes on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_runs
from exchanged import put_in
from sqlalchemy import Engine
from toy_runs import begin, curve, make_home, record, train, typed, weights

from honed.server.store.exchange.files import read_rows
from honed.training.configs import RunConfig
from honed.training.failures import TrainingError
from honed.training.runs import run

SCRIPT = Path(__file__).with_name("killed_script.py")
LONGER = {"sft": {"epochs": 4}, "reward": {"epochs": 4}, "ppo": {"iterations": 8, "batch_size": 4, "minibatches": 2}}
STAGES = tuple(LONGER)
FIRST, SECOND = 3, 7  # lines of metrics.jsonl


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`STAGE-alone` was left alone, `STAGE-killed` was killed, resumed and killed again, and `sft-saving` when its
    checkpoint was about to be put into place; what was killed was not resumed since."""
    home = make_home(tmp_path_factory.mktemp("home"))
    train(home, toy_runs.reward(home, output="judge"))
    commands: list[tuple[RunConfig, int | str]] = []
    for stage in STAGES:
        train(home, settings(home, f"{stage}-alone"))
        killed = settings(home, f"{stage}-killed")
        commands += [(killed, FIRST), (resumed(killed), SECOND)]
    kill(home, [*commands, (settings(home, "sft-saving"), "save")])
    return home


def settings(home: Path, output: str) -> RunConfig:
    stage = output.split("-")[0]
    config: RunConfig = getattr(toy_runs, stage)(home, output=output, **LONGER[stage])
    return config


def resumed(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"resume": True} | changes)


def kill(home: Path, commands: Sequence[tuple[RunConfig, int | str]]) -> None:
    file = home / "commands.json"
    file.write_text(json.dumps([[typed(config), where] for config, where in commands]))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file)],
        env=os.environ | {"HONED_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_twice_ends_as_one_left_alone(home: Path, stage: str) -> None:
    name = f"{stage}-killed"
    before = record(home, name)
    assert before["status"] == "running"
    assert not (home / "models" / name).exists()
    train(home, resumed(settings(home, name)))
    assert_same(home, name, f"{stage}-alone")
    assert record(home, name)["started"] == before["started"]
    assert not list((home / "runs" / name).glob("*state-*"))
    assert not list((home / "runs" / name).glob(".*.partial"))


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_masters_of_their_own_are_gone_on_from(tmp_path: Path, stage: str) -> None:
    """What computes in bfloat16 is not what learns."""
    home = make_home(tmp_path)
    train(home, toy_runs.reward(home, output="judge"))
    alone, cut = (getattr(toy_runs, stage)(home, dtype="bfloat16", output=how) for how in ("alone", "cut"))
    train(home, alone)
    begin(home, cut, 3)
    train(home, resumed(cut))
    assert_same(home, "cut", "alone")


def test_a_run_that_was_killed_while_it_saved_leaves_nothing_behind(home: Path) -> None:
    models = home / "models"
    assert list(models.glob(".sft-saving.*.partial"))
    train(home, resumed(settings(home, "sft-saving")))
    assert_same(home, "sft-saving", "sft-alone")
    assert not list(models.glob(".*.partial"))


def test_a_run_that_is_stopped_after_it_was_resumed_gives_the_last_good_weights(home: Path) -> None:
    """The fourth round is over the budget; the state is of the end of the third."""
    alone, cut = (
        toy_runs.ppo(home, output=f"ppo-sick-{how}", kl_budget=0.5, kl_target=None) for how in ("alone", "cut")
    )
    train(home, alone)
    begin(home, cut, 3)
    train(home, resumed(cut))
    assert record(home, "ppo-sick-cut")["status"] == "stopped"
    assert [line["step"] for line in curve(home, "ppo-sick-cut") if "ppo/kl" in line] == [1, 2, 3, 4]
    assert_same(home, "ppo-sick-cut", "ppo-sick-alone")


def assert_same(home: Path, name: str, other: str) -> None:
    ours, theirs = weights(home, name), weights(home, other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(each, theirs[key]) for key, each in ours.items())
    assert curve(home, name) == curve(home, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.5}, "--learning-rate 0.001, not 0.5"),
        ({"seed": 1, "sharding": "full"}, "--seed 0, not 1, --sharding none, not full"),
        ({"validation": 2}, "--validation 3.0, not 2.0"),
    ],
)
def test_other_settings_are_refused(home: Path, changes: dict[str, Any], said: str) -> None:
    config = settings(home, "sft-changed")
    if not (home / "runs" / "sft-changed").exists():
        begin(home, config, 3)
    with pytest.raises(TrainingError, match=f"The run sft-changed was started with {said}: give what it was"):
        train(home, resumed(config, **changes))
    assert not (home / "models" / "sft-changed").exists()


def test_what_changes_no_result_may_change(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    config = toy_runs.sft(home, output="changed")
    begin(home, config, 3)
    train(home, resumed(config, save_every=1, tokens_per_pass=200))
    assert record(home, "changed")["status"] == "succeeded"


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    config = toy_runs.sft(home, output="changed")
    begin(home, config, 3)
    path = Path(config.data)
    path.write_text(path.read_text() + '{"prompt": "more", "completion": "and more"}\n')
    with pytest.raises(TrainingError, match="The data of the run changed are no longer what they were"):
        train(home, resumed(config))


@pytest.mark.parametrize("stage", STAGES)
def test_a_store_that_has_grown_gives_what_it_had(store: Engine, tmp_path: Path, stage: str) -> None:
    home = make_home(tmp_path)
    train(home, toy_runs.reward(home, output="judge"))
    own: RunConfig = getattr(toy_runs, stage)(home)
    rows = [row for _, row in read_rows(Path(own.data)) if isinstance(row, dict)]
    put_in(store, tmp_path, rows[:-3])
    config = own.model_copy(update={"data": "store"})
    run(config.model_copy(update={"output": "alone"}), home=home, engine=store, show=False)
    killed = config.model_copy(update={"output": "killed"})
    for step, more in ((2, rows[-3:-1]), (3, rows[-1:])):
        with toy_runs.cut_after(step), pytest.raises(toy_runs.CutError):
            run(killed, home=home, engine=store, show=False)
        put_in(store, tmp_path, more)
        killed = resumed(killed)
    run(killed, home=home, engine=store, show=False)
    assert_same(home, "killed", "alone")
    assert record(home, "killed")["dataset"]["id"] == record(home, "alone")["dataset"]["id"]
