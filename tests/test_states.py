"""States of a run: whole or not there, the newest found, read back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from honed.training import states
from honed.training.distributed import Ranks
from honed.training.learner import Average, Best, Learner, OptimizerConfig, State
from honed.training.states import drop_states, load_state, newest_step, save_state

RANKS = Ranks(torch.device("cpu"))


def learner_of(dtype: torch.dtype = torch.float32) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(4, 3), RANKS, OptimizerConfig(learning_rate=0.1), dtype)


def learn(learner: Learner, seed: int) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).to(learner.module.weight.dtype)
    learner.backward(learner.module(x).float().square().sum())
    learner.step(1.0)


def number(value: float) -> State:
    return {"some": {"number": torch.tensor(value)}}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_learner_goes_on_from_a_state_as_the_first_would(dtype: torch.dtype, tmp_path: Path) -> None:
    """With its average, its best weights and a number, as the stages keep them."""

    def whole(learner: Learner) -> tuple[State, Average, Best, torch.Tensor]:
        average, best = Average(learner.masters, 0.9), Best(learner.masters)
        coefficient = torch.tensor(0.0, dtype=torch.float64)
        state = {"policy": learner.state(), "average": average.state(), "best": best.state(), "beta": coefficient}
        return state, average, best, coefficient

    first, second = learner_of(dtype), learner_of(dtype)
    state, average, best, coefficient = whole(first)
    for seed in range(3):
        learn(first, seed)
        average.update(first.masters)
    best.offer(first.masters, -0.25)
    coefficient.fill_(0.1 + 1e-12)
    save_state(tmp_path, 3, state, RANKS)

    other_state, other_average, other_best, other_coefficient = whole(second)
    load_state(tmp_path, 3, other_state, RANKS)
    second.publish(second.masters)
    assert float(other_coefficient) == 0.1 + 1e-12
    assert float(other_best.value) == -0.25
    for learner, own in ((first, average), (second, other_average)):
        learn(learner, 9)
        own.update(learner.masters)
    for name, master in first.masters.items():
        assert torch.equal(master, second.masters[name])
        assert torch.equal(first.module.get_parameter(name), second.module.get_parameter(name))
        assert torch.equal(average.weights[name], other_average.weights[name])
        assert torch.equal(best.weights[name], other_best.weights[name])


def test_a_state_is_read_into_the_tensors_that_are_there(tmp_path: Path) -> None:
    save_state(tmp_path, 1, number(4.0), RANKS)
    state = number(0.0)
    held = state["some"]["number"]
    load_state(tmp_path, 1, state, RANKS)
    assert float(held) == 4.0


def test_the_newest_is_found_and_older_ones_are_dropped(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    for step in (2, 4, 10):
        save_state(tmp_path, step, number(step), RANKS)
        assert newest_step(tmp_path) == step
        assert names(tmp_path) == {f"state-{step:06d}"}


def test_the_newest_is_found_by_its_number(tmp_path: Path) -> None:
    """Also beyond the digits that a name is filled up to."""
    for step in (999_999, 1_000_000):
        (tmp_path / f"state-{step:06d}").mkdir()
    assert newest_step(tmp_path) == 1_000_000


def test_what_is_half_written_or_something_else_is_no_state(tmp_path: Path) -> None:
    save_state(tmp_path, 4, number(4.0), RANKS)
    (tmp_path / ".state-000006.partial").mkdir()
    (tmp_path / "state-000008").touch()
    (tmp_path / "state-best").mkdir()
    (tmp_path / "state-000009.old").mkdir()
    assert newest_step(tmp_path) == 4
    save_state(tmp_path, 6, number(6.0), RANKS)  # over what the run that died has left
    assert newest_step(tmp_path) == 6
    assert ".state-000006.partial" not in names(tmp_path)


def test_a_write_that_dies_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, 2, number(2.0), RANKS)

    def dies(*_: Any, storage_writer: Any, **__: Any) -> None:
        (Path(storage_writer.path) / "half").touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(states, "save", dies)
        with pytest.raises(OSError, match="No space"):
            save_state(tmp_path, 4, number(4.0), RANKS)
    assert newest_step(tmp_path) == 2
    state = number(0.0)
    load_state(tmp_path, 2, state, RANKS)
    assert float(state["some"]["number"]) == 2.0


def test_a_run_that_has_ended_leaves_no_state(tmp_path: Path) -> None:
    save_state(tmp_path, 2, number(2.0), RANKS)
    (tmp_path / ".state-000004.partial").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    drop_states(tmp_path)
    assert names(tmp_path) == {"metrics.jsonl"}
