"""A run from its settings to its checkpoint: what is refused before a weight is loaded, what is written down however it
ends, and what the store is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_runs
from exchanged import put_in
from filelock import FileLock
from sqlalchemy import Engine, insert, select
from toy_runs import CutError, begin, curve, make_home, record, train, weights, write_rows
from transformers import PreTrainedModel

from honed.models.checkpoint import read_lineage
from honed.models.sources import SourceError
from honed.server.store.database import reading, writing
from honed.server.store.exchange.files import read_rows
from honed.server.store.exchange.records import text_prompt
from honed.server.store.tables import Checkpoint, Erasure, Snapshot
from honed.training import ending, loading, runs, sft
from honed.training.configs import RunConfig, SFTConfig, Stage
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.run import Run
from honed.training.runs import run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads weights fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded")

    for name in ("load_policy", "load_scalar_model"):
        monkeypatch.setattr(loading, name, refuse)


def folders(home: Path) -> set[str]:
    """All that is in models/, hidden or not."""
    return {each.name for each in (home / "models").iterdir()}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("sft", {"output": "tiny"}, "There is a checkpoint tiny already, and none is ever changed"),
        ("sft", {"output": "taken"}, "There is a run taken already: --resume goes on with it"),
        ("sft", {"output": "new", "resume": True}, "There is no run new to go on with: leave --resume out"),
        ("sft", {"data": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ("sft", {"max_tokens": 1}, "None of the 9 demonstrations leaves room for an answer"),
        ("reward", {"data": "demonstrations"}, "holds demonstrations, but reward reads rankings"),
        ("ppo", {"reward_model": None}, "PPO needs a reward model: name one with --reward-model"),
        ("ppo", {"reward_model": "tiny"}, "tiny is a checkpoint of the stage source, and no reward model"),
    ],
)
def test_what_can_be_known_before_is_refused_before(home: Path, stage: str, changes: dict[str, Any], said: str) -> None:
    taken = home / "runs" / "taken"
    taken.mkdir(parents=True)
    (taken / "run.json").write_text("{}")
    if changes.get("data") == "demonstrations":
        changes = {"data": str(home / "demonstrations.jsonl")}
    before = folders(home)
    with pytest.raises(TrainingError, match=said):
        train(home, getattr(toy_runs, stage)(home, **changes))
    assert folders(home) == before
    assert [each.name for each in (home / "runs").iterdir()] == ["taken"]


def test_what_is_measured_of_adapters_is_the_model_that_is_saved(home: Path) -> None:
    """In bfloat16, where folding them in rounds some of what they learned away."""
    others = ("red", "green", "blue")
    data = str(write_rows(home / "others.jsonl", ({"prompt": word, "completion": word[::-1]} for word in others)))
    config = toy_runs.sft(home, lora=True, dtype="bfloat16", learning_rate=1e-2, tokens_per_pass=10_000, output="whole")
    train(home, config.model_copy(update={"validation": 0.1, "validation_data": data}))
    loaded = loading.load_model(home / "models" / "whole", torch.bfloat16, torch.device("cpu"))
    encoder = Encoder(loaded.tokenizer, 64, 64)
    trees = [tree for word in others if (tree := encoder.tree(text_prompt(word), [word[::-1]])) is not None]
    with torch.no_grad():
        loss, _ = sft.objective(loaded, loaded.model.device).loss(trees, sum(tree.num_answer_tokens for tree in trees))
    lineage = read_lineage(home / "models" / "whole")
    assert lineage is not None
    assert lineage.metrics == {"validation/loss": pytest.approx(float(loss), rel=1e-6)}
    unfolded, folded = (line["validation/loss"] for line in curve(home, "whole")[-2:])
    assert folded == lineage.metrics["validation/loss"] != unfolded


def test_a_checkpoint_that_another_process_made_meanwhile_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this one read its data the other, which held the folder, came to its end."""
    config = toy_runs.sft(home, output="twice")
    begin(home, config, 3)
    again = config.model_copy(update={"resume": True})
    prepare = runs.prepare

    def slowly(*arguments: Any) -> Any:
        prepared = prepare(*arguments)
        monkeypatch.setattr(runs, "prepare", prepare)
        train(home, again)
        return prepared

    monkeypatch.setattr(runs, "prepare", slowly)
    with pytest.raises(TrainingError, match="There is a checkpoint twice already"):
        train(home, again)
    assert record(home, "twice")["status"] == "succeeded"
    assert [line["step"] for line in curve(home, "twice")] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


def test_numbers_that_cannot_be_gone_on_from_end_the_run_with_their_reason(home: Path) -> None:
    config = toy_runs.sft(home, output="damaged")
    begin(home, config, 3)
    metrics = home / "runs" / "damaged" / "metrics.jsonl"
    metrics.write_text("{\n" + metrics.read_text())
    with pytest.raises(ValueError, match="line 1, is damaged"):
        train(home, config.model_copy(update={"resume": True}))
    facts = record(home, "damaged")
    assert (facts["status"], "line 1, is damaged" in facts["reason"]) == ("failed", True)


@pytest.mark.usefixtures("no_weights")
def test_a_model_that_is_not_there_is_refused_before(home: Path) -> None:
    with pytest.raises(SourceError):
        train(home, toy_runs.sft(home, model=str(home / "models" / "none")))
    assert not (home / "runs").exists()


def test_a_run_that_goes_on_elsewhere_is_left_alone(home: Path, request: pytest.FixtureRequest) -> None:
    config = toy_runs.sft(home, output="busy")
    begin(home, config, 3)
    before = record(home, "busy")
    request.getfixturevalue("no_weights")
    with FileLock(home / "runs" / "busy" / ".lock"), pytest.raises(TrainingError, match="going on in another process"):
        train(home, config.model_copy(update={"resume": True}))
    assert record(home, "busy") == before


def test_the_ranks_are_connected_once_for_all_stages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's ranks cannot be connected a second time."""
    connected: list[str] = []
    seen: list[list[str]] = []

    @contextmanager
    def connect(device: str) -> Iterator[Ranks]:
        connected.append(device)
        yield Ranks(torch.device(device))
        connected.pop()

    def note(config: RunConfig, **_: Any) -> Any:
        seen.append([*connected, str(config.output)])

    monkeypatch.setattr(runs, "ranks_of", connect)
    monkeypatch.setattr(runs, "run", note)
    stages: dict[Any, RunConfig] = {
        stage: getattr(toy_runs, stage)(home, output=f"new-{stage}") for stage in ("sft", "reward", "ppo")
    }
    runs.run_all(stages, home=home, engine=None, show=False)
    assert seen == [["cpu", "new-sft"], ["cpu", "new-reward"], ["cpu", "new-ppo"]]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pretraining": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ({"max_new_tokens": 64}, "None of the 9 prompts leaves room for an answer"),
        ({"output": "tiny"}, "There is a checkpoint tiny already"),
        ({"data": "demonstrations"}, "holds demonstrations, but"),
    ],
)
def test_what_a_later_stage_is_refused_for_is_said_before_the_first(
    home: Path, changes: dict[str, Any], said: str
) -> None:
    if "data" in changes:
        stages = circle(home, data=str(home / "demonstrations.jsonl"))
    else:
        stages = circle(home)
        stages["ppo"] = stages["ppo"].model_copy(update=changes)
    with pytest.raises(TrainingError, match=said):
        runs.run_all(stages, home=home, engine=None, show=False)
    assert not (home / "runs").exists()


def circle(home: Path, **changes: Any) -> dict[Stage, RunConfig]:
    return {
        "sft": toy_runs.sft(home, output="new-sft", **changes),
        "reward": toy_runs.reward(home, output="new-reward", **changes),
        "ppo": toy_runs.ppo(home, output="new-ppo", reward_model=None, **changes),
    }


def test_a_circle_goes_on_only_with_what_its_own_settings_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {stage: config.model_copy(update={"resume": True}) for stage, config in circle(home).items()}
    train(home, toy_runs.sft(home, output="new-sft"))
    asked: list[str | None] = []

    def note(config: RunConfig, **_: Any) -> Any:
        asked.append(config.output)

    monkeypatch.setattr(runs, "run", note)
    (first, *_) = runs.run_all(stages, home=home, engine=None, show=False)
    assert first.name == "new-sft"
    assert asked == ["new-reward", "new-ppo"]
    other = stages | {"sft": stages["sft"].model_copy(update={"epochs": 5})}
    with pytest.raises(TrainingError, match="The run new-sft was started with --epochs"):
        runs.run_all(other, home=home, engine=None, show=False)
    another = stages | {"sft": stages["sft"].model_copy(update={"output": "tiny"})}
    with pytest.raises(TrainingError, match="There is a checkpoint tiny already, which another run made"):
        runs.run_all(another, home=home, engine=None, show=False)
    assert asked == ["new-reward", "new-ppo"]


@pytest.mark.parametrize("broken", ["_tell", "_drop_states", "write_report"])
def test_a_run_that_has_written_its_checkpoint_is_finished_from_it(
    store: Engine, home: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is cut off, and nothing is learned again."""
    config = toy_runs.sft(home, output="new")

    def fail(*_: object, **__: object) -> None:
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(runs if broken == "write_report" else ending, broken, fail)
        with pytest.raises(CutError):
            run(config, home=home, engine=store, show=False)
    before = weights(home, "new")
    monkeypatch.setattr(sft, "train_sft", fail)
    with pytest.raises(TrainingError, match="was started with --epochs"):
        run(config.model_copy(update={"resume": True, "epochs": 7}), home=home, engine=store, show=False)
    result = run(config.model_copy(update={"resume": True}), home=home, engine=store, show=False)
    assert all(bool((before[name] == each).all()) for name, each in weights(home, "new").items())
    lineage = read_lineage(result.folder)
    assert lineage is not None
    with reading(store) as connection:
        assert connection.execute(select(Checkpoint.id)).scalars().all() == [lineage.id]
    facts = record(home, "new")
    assert (facts["status"], facts["reason"], facts["checkpoint"]) == ("succeeded", None, "new")
    assert facts["summary"] == lineage.metrics
    assert (result.run_folder / "report.html").is_file()
    assert not list(result.run_folder.glob("state-*"))
    with pytest.raises(TrainingError, match="There is a checkpoint new already"):
        run(config.model_copy(update={"resume": True}), home=home, engine=store, show=False)


def test_an_erasure_names_what_is_made_of_a_checkpoint_that_it_names(store: Engine, home: Path) -> None:
    """Also where the run has nothing in its own data of what was erased."""
    parent = read_lineage(home / "models" / "tiny")
    assert parent is not None
    with writing(store) as connection:
        for name, named in (("of-parent", [parent.id]), ("of-another", ["ckpt-other"])):
            values = {"id": name, "created": datetime.now(UTC), "completions": 1, "feedback": 0}
            connection.execute(insert(Erasure).values(**values, checkpoints={"ids": named}))
    made = read_lineage(run(toy_runs.sft(home, output="new"), home=home, engine=store, show=False).folder)
    assert made is not None
    with reading(store) as connection:
        named_by = {
            row.id: row.checkpoints["ids"] for row in connection.execute(select(Erasure.id, Erasure.checkpoints))
        }
    assert named_by == {"of-parent": sorted([parent.id, made.id]), "of-another": ["ckpt-other"]}


@pytest.mark.parametrize("error", [RuntimeError("no luck"), KeyboardInterrupt()])
def test_a_run_that_fails_says_why_and_can_be_gone_on_from(
    home: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_runs.sft(home, output="failed")

    def fail(at: Run[SFTConfig], *_: object) -> None:
        at.tracker.log(1, {"train/loss": 1.0})
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sft, "train_sft", fail)
        with pytest.raises(type(error)):
            train(home, config)
    facts = record(home, "failed")
    assert facts["status"] == "failed"
    assert facts["reason"] == f"{type(error).__name__}: {error}"
    assert datetime.fromisoformat(facts["started"]) <= datetime.fromisoformat(facts["finished"]) <= datetime.now(UTC)
    assert facts["checkpoint"] is None
    assert len(curve(home, "failed")) == 1
    assert folders(home) == {"tiny"}
    train(home, config.model_copy(update={"resume": True}))
    assert record(home, "failed")["status"] == "succeeded"
    assert record(home, "failed")["reason"] is None


def test_a_full_disk_leaves_no_half_of_a_checkpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_runs.sft(home, output="full")

    def fill(_: PreTrainedModel, folder: Path, **__: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", fill)
        with pytest.raises(OSError, match="No space left on device"):
            train(home, config)
    assert folders(home) == {"tiny"}
    assert record(home, "full")["status"] == "failed"
    assert "No space left on device" in record(home, "full")["reason"]
    assert list((home / "runs" / "full").glob("state-*")), "its states stay until there is a checkpoint"

    train(home, config.model_copy(update={"resume": True}))
    train(home, config.model_copy(update={"output": "alone"}))
    assert not list((home / "runs" / "full").glob("state-*"))
    ours, theirs = weights(home, "full"), weights(home, "alone")
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_a_full_disk_in_mid_run_leaves_the_state_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second state cannot be put into place."""
    config = toy_runs.sft(home, output="full")
    rename = Path.rename

    def refuse(path: Path, to: Any) -> Path:
        if Path(to).name == "state-000004":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="No space left on device"):
            train(home, config)
    assert [each.name for each in (home / "runs" / "full").glob("state-*")] == ["state-000002"]
    train(home, config.model_copy(update={"resume": True}))
    assert [line["step"] for line in curve(home, "full")] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


def test_a_run_that_is_stopped_as_sick_says_so_and_keeps_a_checkpoint(home: Path) -> None:
    train(home, toy_runs.reward(home, output="judge"))
    result = train(home, toy_runs.ppo(home, output="sick", kl_budget=1e-6, kl_target=None, learning_rate=1e-2))
    facts = record(home, "sick")
    assert facts["status"] == "stopped"
    assert "is over the budget of 1e-06" in facts["reason"]
    assert any(facts["reason"] in line for line in (result.run_folder / "report.html").read_text().splitlines())
    # The first round is the policy of the start, which is well; what it was made into is not.
    ours, start = weights(home, "sick"), weights(home, "tiny")
    assert all(bool((ours[name] == start[name]).all()) for name in start)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_store_is_told_of_a_checkpoint_and_of_what_it_was_trained_on(store: Engine, home: Path, stage: str) -> None:
    own: RunConfig = getattr(toy_runs, stage)(home, output="new")
    put_in(store, home, (row for _, row in read_rows(Path(own.data)) if isinstance(row, dict)))
    result = run(own.model_copy(update={"data": "store"}), home=home, engine=store, show=False)
    lineage, parent = read_lineage(result.folder), read_lineage(home / "models" / "tiny")
    assert lineage is not None
    assert parent is not None
    with reading(store) as connection:
        (row,) = connection.execute(select(Checkpoint.__table__)).mappings()
        snapshots = list(connection.execute(select(Snapshot.id)).scalars())
    assert snapshots == [lineage.dataset]
    assert (row["id"], row["name"], row["stage"], row["parent_id"]) == (lineage.id, "new", stage, parent.id)
    assert row["snapshot_id"] == lineage.dataset == record(home, "new")["dataset"]["id"]
    assert Path(row["folder"]) == result.folder
    assert row["settings"] == lineage.settings == record(home, "new")["settings"]
    assert row["metrics"] == lineage.metrics == record(home, "new")["summary"]


def test_a_checkpoint_of_a_file_has_no_snapshot(store: Engine, home: Path) -> None:
    run(toy_runs.sft(home, output="new"), home=home, engine=store, show=False)
    with reading(store) as connection:
        (row,) = connection.execute(select(Checkpoint.__table__)).mappings()
    assert row["snapshot_id"] is None
