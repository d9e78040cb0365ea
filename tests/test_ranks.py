"""Two processes that torchrun started, whole models on both or one shared out, against one process: the same curves,
the same checkpoints, and each goes on from a state of the other. On CPUs, which talk by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import toy_runs
from toy_runs import begin, curve, make_home, record, train, typed, weights

from honed.models.policy import load_policy
from honed.training.configs import RunConfig
from honed.training.distributed import PATIENCE, ranks_of

SCRIPT = Path(__file__).with_name("torchrun_script.py")
STAGES = ("sft", "reward", "ppo")
CROSSED = (("sft", "none"), ("reward", "full"), ("ppo", "full"))  # what goes on with another number of ranks
DPO = ("dpo-one", "dpo-none")
CUT = 3  # a step after which a state was written and another one was not

Command = tuple[RunConfig, int | None]  # and the step after which it is cut off
SICK_AT = 3  # the call of PPO's first round: after the answers that are shown, and those that are measured


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs: `STAGE-one`, by one process; `STAGE-none` and `STAGE-full`, by two; `STAGE-by-one` and `STAGE-by-two`,
    begun by the other and ended by these."""
    home = make_home(tmp_path_factory.mktemp("home"))
    train(home, toy_runs.reward(home, output="judge"))
    settings = {stage: getattr(toy_runs, stage)(home) for stage in STAGES}
    for stage, config in settings.items():
        train(home, config.model_copy(update={"output": f"{stage}-one"}))
    commands: list[Command] = [(settings["sft"].model_copy(update={"output": "sft-one"}), None)]  # which is refused
    commands += [
        (config.model_copy(update={"output": f"{stage}-{sharding}", "sharding": sharding}), None)
        for stage, config in settings.items()
        for sharding in ("none", "full")
    ]
    adapters = settings["sft"].model_copy(update={"lora": True, "output": "adapters-one"})
    train(home, adapters)
    commands += [
        (adapters.model_copy(update={"sharding": "full", "output": "adapters-full"}), None),
        (settings["reward"].model_copy(update={"sharding": "full", "dtype": "bfloat16", "output": "bfloat16"}), None),
    ]
    preferences = toy_runs.dpo(home, output="dpo-one")
    train(home, preferences)
    commands.append((preferences.model_copy(update={"output": "dpo-none"}), None))
    last = []
    for stage, sharding in CROSSED:
        by_one, by_two = (
            settings[stage].model_copy(update={"output": f"{stage}-by-{by}", "sharding": sharding})
            for by in ("one", "two")
        )
        begin(home, by_two, CUT)
        commands += [(by_one, CUT), (by_two.model_copy(update={"resume": True}), None)]
        last.append(by_one.model_copy(update={"resume": True}))
    sick = [
        settings["ppo"].model_copy(update={"sharding": each, "output": f"sick-{each}"}) for each in ("none", "full")
    ]
    start(home, commands, sick)
    for config in last:
        train(home, config)
    return home


def start(home: Path, commands: Sequence[Command], sick: Sequence[RunConfig]) -> None:
    """Two ranks that run all commands, and those of which the second rank falls `sick`; what they print goes into `out`
    and `err`."""
    file = home / "commands.json"
    listed = [[typed(config), step, None] for config, step in commands]
    file.write_text(json.dumps([*listed, *([typed(config), None, SICK_AT] for config in sick)]))
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*torchrun, str(SCRIPT), str(file)],
        env=os.environ | {"HONED_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()  # which it hands on to the ranks
        out, err = process.communicate()
        err += "The ranks wait for each other."
    assert process.returncode == 0, err
    (home / "out").write_text(out)
    (home / "err").write_text(err)


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_measure_what_one_process_measures(home: Path, stage: str, sharding: str) -> None:
    assert_same_curve(home, stage, f"{stage}-{sharding}")


@pytest.mark.parametrize("ended", ["by-one", "by-two"])
@pytest.mark.parametrize("stage", STAGES)
def test_another_number_of_ranks_goes_on(home: Path, stage: str, ended: str) -> None:
    assert_same_curve(home, stage, f"{stage}-{ended}")


def test_adapters_of_a_model_that_is_shared_out_learn_the_same(home: Path) -> None:
    assert_same_curve(home, "adapters", "adapters-full")


def test_a_model_that_is_shared_out_computes_in_bfloat16(home: Path) -> None:
    losses = [[line["train/loss"] for line in curve(home, name)[1:3]] for name in ("bfloat16", "reward-one")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_trls_trainers_learn_the_same_on_two_ranks(home: Path) -> None:
    """Where batches can be shared out evenly: else a rank gets a pair twice, and so for what is measured."""
    alone, shared = ([line["train/loss"] for line in curve(home, name) if "train/loss" in line] for name in DPO)
    assert len(alone) == 6
    assert shared == pytest.approx(alone, rel=1e-4)
    alone_weights, shared_weights = (weights(home, name) for name in DPO)
    for name, each in alone_weights.items():
        assert shared_weights[name].numpy() == pytest.approx(each.numpy(), abs=1e-4)


def assert_same_curve(home: Path, stage: str, name: str) -> None:
    alone, shared = curve(home, f"{stage}-one"), curve(home, name)
    assert [line.keys() for line in shared] == [line.keys() for line in alone]
    for ours, theirs in zip(shared, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("how", ["none", "full", "by-one", "by-two"])
@pytest.mark.parametrize("stage", STAGES)
def test_ranks_save_what_one_process_saves(home: Path, stage: str, how: str) -> None:
    alone, shared = weights(home, f"{stage}-one"), weights(home, f"{stage}-{how}")
    assert alone.keys() == shared.keys()
    for name in alone:
        # A ranking says nothing of the bias, whose gradient is rounding alone, and the mean moves with it.
        if not name.endswith(("head.bias", "/mean")):
            assert shared[name].numpy() == pytest.approx(alone[name].numpy(), abs=1e-4)
    assert record(home, f"{stage}-{how}")["status"] == "succeeded"


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_what_ends_the_work_of_one_rank_ends_that_of_all(home: Path, sharding: str) -> None:
    """None waits for an answer that does not come: the run stops, and keeps what it had."""
    facts = record(home, f"sick-{sharding}")
    assert (facts["status"], facts["reason"]) == ("stopped", "The second rank's numbers are not finite.")
    before = weights(home, "tiny")
    assert all(
        kept.numpy() == pytest.approx(before[name].numpy()) for name, kept in weights(home, f"sick-{sharding}").items()
    )


def test_a_model_that_was_shared_out_is_served_as_any_other(home: Path) -> None:
    policies = [load_policy(home / "models" / name, device="cpu").model for name in ("tiny", "sft-full")]
    assert policies[0].config.architectures == policies[1].config.architectures
    assert type(policies[0]) is type(policies[1])


def test_the_first_rank_speaks_for_all(home: Path) -> None:
    printed = (home / "out").read_text().split()
    assert printed == [
        *(str(home / "models" / f"{stage}-{sharding}") for stage in STAGES for sharding in ("none", "full")),
        *(str(home / "models" / name) for name in ("adapters-full", "bfloat16", "dpo-none")),
        *(str(home / "models" / f"{stage}-by-two") for stage in STAGES),
        *(str(home / "models" / f"sick-{sharding}") for sharding in ("none", "full")),
    ]
    assert (home / "err").read_text().count("honed: There is a checkpoint sft-one already") == 1


def test_the_others_wait_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first rank fetches, tokenizes or saves."""
    asked: list[timedelta] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(dist, "init_process_group", lambda _, timeout: asked.append(timeout))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with ranks_of("cpu"):
        pass
    assert asked == [PATIENCE]
    assert timedelta(hours=1) <= PATIENCE
