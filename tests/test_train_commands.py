"""`honed train ...` and `honed score` as they are typed: options of fields, refusals in one line, who prints what.

The runs themselves are replaced by ones that note what they were asked for.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from fakes import save_tiny_policy
from test_layout import loaded_after
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

import honed.training
from honed.cli import app
from honed.cli.options import option_name
from honed.cli.training import CIRCLE
from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.policy import PolicyError
from honed.models.sources import SourceError
from honed.server.store.database import database_url, open_database
from honed.server.store.migrations import migrate
from honed.training.configs import CONFIGS, STAGES, RunConfig, Stage
from honed.training.failures import SAID_BY_FIRST, TrainingError

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
TRAIN: Any = GROUP.commands["train"]


@dataclass
class Runs:
    """In the place of `honed.training.runs`. `asked`: what each call was given."""

    home: Path
    error: Exception | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def run(self, config: RunConfig, **given: Any) -> Any:
        self.asked.append({"config": config, **given})
        if self.error is not None:
            raise self.error
        name = config.output or "tiny-new"
        return SimpleNamespace(
            name=name, folder=self.home / "models" / name, run_folder=self.home / "runs" / name, lines=[f"Made {name}."]
        )

    def run_all(self, configs: Mapping[Stage, RunConfig], **given: Any) -> list[Any]:
        assert tuple(configs) == CIRCLE
        return [self.run(config, **given) for config in configs.values()]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONED_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    fake = Runs(home)
    monkeypatch.setattr(honed.training, "runs", fake, raising=False)
    return fake


def honed_(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def options(stage: str) -> dict[str, Any]:
    """A command's options by their first names."""
    context = SimpleNamespace()
    return {each.opts[0]: each for each in TRAIN.get_command(context, stage).params}


def make_store(folder: Path) -> None:
    folder.mkdir()
    engine = open_database(database_url(None, folder))
    migrate(engine)
    engine.dispose()


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_is_an_option_with_its_own_words(stage: Stage) -> None:
    found = options(stage)
    for name, setting in CONFIGS[stage].model_fields.items():
        option = found.pop(option_name(name))
        assert option.help == setting.description
        shown = ",".join(f"{each:g}" for each in setting.default) if name == "stage_shares" else setting.default
        assert option.default == shown
        assert bool(option.secondary_opts) == (setting.annotation is bool)
    assert set(found) == {"--dry-run", "--database-url", "--quiet"}


def test_what_is_left_out_is_the_default(runs: Runs, home: Path) -> None:
    done = honed_("train", "sft", "--data", "rows.jsonl")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Made tiny-new.\n", "")
    assert runs.asked == [{"config": CONFIGS["sft"](data="rows.jsonl"), "home": home, "engine": None, "show": True}]


def test_what_is_typed_is_the_setting(runs: Runs) -> None:
    typed = "--data rows.jsonl --learning-rate 3e-4 --lora --no-disjoint --dtype float32 --stage-shares 0.5,0.25,0.25"
    assert honed_("train", "dpo", *typed.split(), "--beta", "0.5", "--output", "better").exit_code == 0
    assert runs.asked[0]["config"] == CONFIGS["dpo"](
        data="rows.jsonl",
        learning_rate=3e-4,
        lora=True,
        dtype="float32",
        stage_shares=(0.5, 0.25, 0.25),
        beta=0.5,
        output="better",
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("sft --epochs 0", "--epochs: input should be greater than or equal to 1"),
        ("sft --stage-shares 0.2,x", "--stage-shares: write 3 numbers with commas, as in 0.2,0.45,0.35"),
        ("sft --stage-shares 0.5,0.5,0.5", "--stage-shares: three shares that add up to 1"),
        ("sft --warmup 1 --dropout 2", "--warmup: input should be less than 1; --dropout: input should be less than 1"),
        ("ppo --minibatches 5", "--batch-size: a multiple of --samples-per-prompt times minibatches, 80"),
        ("all --reward-learning-rate 0", "--reward-learning-rate: input should be greater than 0"),
        ("all --lora-rank 0", "--lora-rank: input should be greater than or equal to 1"),
    ],
)
def test_what_is_refused_is_said_in_one_line(typed: str, said: str, runs: Runs) -> None:
    done = honed_("train", *typed.split())
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"honed: {said}\n")
    assert not runs.asked


@pytest.mark.parametrize("typed", ["sft --nothing", "sft --beta 0.1", "sft --dtype float64", "sft --epochs x", "rest"])
def test_what_is_no_option_is_no_option(typed: str) -> None:
    assert honed_("train", *typed.split()).exit_code == 2


def test_all_shares_what_a_circle_has_once_and_prefixes_the_rest(runs: Runs) -> None:
    typed = (
        "--data rows.jsonl --seed 7 --lora --sft-epochs 3 --reward-margin --ppo-kl-target 6 --ppo-learning-rate 1e-6"
    )
    done = honed_("train", "all", *typed.split(), "--output", "circle")
    assert done.stdout == "Made circle-sft.\nMade circle-reward.\nMade circle-ppo.\n"
    common = {"data": "rows.jsonl", "seed": 7, "lora": True, "disjoint": True}
    assert [asked["config"] for asked in runs.asked] == [
        CONFIGS["sft"](**common, epochs=3, output="circle-sft"),
        CONFIGS["reward"](**common, margin=True, output="circle-reward"),
        CONFIGS["ppo"](**common, kl_target=6, learning_rate=1e-6, output="circle-ppo"),
    ]


def test_all_has_every_field_of_its_stages_once() -> None:
    found = options("all")
    for stage in CIRCLE:
        for name in CONFIGS[stage].model_fields:
            is_there = (option_name(name) in found) + (option_name(name, stage) in found)
            assert is_there == (name != "reward_model"), f"{stage}: {name}"
    assert found["--disjoint"].default is True
    assert found["--sft-learning-rate"].rich_help_panel == "Stage sft"


def test_names_are_left_to_the_runs_where_none_is_given(runs: Runs) -> None:
    assert honed_("train", "all", "--data", "rows.jsonl", "--no-disjoint").exit_code == 0
    assert [(asked["config"].output, asked["config"].disjoint) for asked in runs.asked] == [(None, False)] * 3


@pytest.mark.parametrize("data", ["store", "data-0123456789ab"])
def test_the_store_is_opened_for_what_is_in_it(data: str, runs: Runs, home: Path) -> None:
    done = honed_("train", "sft", "--data", data)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"honed: There is no store in {home / 'honed.db'}: serve a model or `honed import`")
    assert not home.exists(), "a store that is only asked for is not made"
    make_store(home)
    assert honed_("train", "sft", "--data", data).exit_code == 0
    assert str(runs.asked[0]["engine"].url).endswith("home/honed.db")


def test_a_store_that_is_there_notes_checkpoints_from_files(runs: Runs, home: Path, tmp_path: Path) -> None:
    make_store(home)
    make_store(tmp_path / "elsewhere")
    url = f"sqlite:///{tmp_path / 'elsewhere' / 'honed.db'}"
    assert honed_("train", "sft", "--data", "rows.jsonl").exit_code == 0
    assert honed_("train", "sft", "--data", "rows.jsonl", "--database-url", url).exit_code == 0
    assert [str(asked["engine"].url).rsplit("/", 2)[1] for asked in runs.asked] == ["home", "elsewhere"]


@pytest.mark.parametrize(
    "error",
    [
        TrainingError("Do this."),
        PolicyError("Do this."),
        SourceError("Do this."),
        UnsupportedArchitectureError("Do this."),
    ],
    ids=repr,
)
def test_what_ends_a_run_is_one_line(error: Exception, runs: Runs) -> None:
    runs.error = error
    done = honed_("train", "kto", "--data", "rows.jsonl")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "honed: Do this.\n")


def test_a_bug_is_not_hidden(runs: Runs) -> None:
    runs.error = RuntimeError("unforeseen")
    assert honed_("train", "kto", "--data", "rows.jsonl").exception is runs.error


def test_quiet_prints_folders_alone(runs: Runs, home: Path) -> None:
    done = honed_("train", "sft", "--data", "rows.jsonl", "--quiet", "--output", "new")
    assert (done.stdout, done.stderr) == (f"{home / 'models' / 'new'}\n", "")
    assert runs.asked[0]["show"] is False


def test_only_the_first_rank_speaks(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    done = honed_("train", "sft", "--data", "rows.jsonl")
    assert (done.exit_code, done.stdout, done.stderr, runs.asked[0]["show"]) == (0, "", "", False)
    runs.error = TrainingError("Do this.")
    runs.error.add_note(SAID_BY_FIRST)
    done = honed_("train", "sft", "--data", "rows.jsonl")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("error", [TrainingError("Do this."), PolicyError("Do this.")], ids=repr)
def test_another_rank_says_what_it_alone_met_with(
    error: Exception, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    runs.error = error
    done = honed_("train", "sft", "--data", "rows.jsonl")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "honed: rank 1: Do this.\n")
    error.add_note(SAID_BY_FIRST)
    assert honed_("train", "sft", "--data", "rows.jsonl").stderr == ""


def test_only_the_first_rank_opens_the_store(runs: Runs, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(home)
    for rank, opened in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert honed_("train", "sft", "--data", "store").exit_code == 0
        assert (runs.asked[-1]["engine"] is not None) == opened


def test_a_missing_extra_is_named_first(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "honed.training.planning.preflight.find_spec", lambda name: None if name == "trl" else find(name)
    )
    done = honed_("train", "dpo")  # there is no store either
    assert done.stderr == "honed: Training needs trl: pip install 'honed[train]'\n"
    assert honed_("train", "sft", "--data", "rows.jsonl").exit_code == 0, "which SFT does without"


def test_refusals_and_help_load_nothing_heavy() -> None:
    asked = (
        "import os\nos.environ['HONED_HOME'] = '/nowhere'\nfrom honed.cli import app\n"
        "for words in (['train', '--help'], ['train', 'all', '--help'], ['train', 'sft', '--epochs', '0'], "
        "['train', 'sft', '--database-url', 'sqlite:////nowhere/x.db']):\n"
        "    try:\n        app(words)\n    except SystemExit:\n        pass"
    )
    assert loaded_after(asked, ["torch", "transformers", "trl", "fastapi"]) == []


def test_the_commands_are_not_built_for_others() -> None:
    assert loaded_after("from honed.cli import app\nimport typer.main\ntyper.main.get_command(app)", ["pydantic"]) == []


def test_help_names_the_stages_and_their_options() -> None:
    shown = honed_("train", "--help").stdout
    assert all(f" {name} " in shown for name in (*STAGES, "all"))
    assert "Residual dropout" in honed_("train", "sft", "--help").stdout


def saved(folder: Path, stage: str) -> Path:
    """A checkpoint whose lineage names this stage."""
    save_tiny_policy(folder)
    lineage = json.loads((folder / "lineage.json").read_text())
    (folder / "lineage.json").write_text(json.dumps({**lineage, "stage": stage}))
    return folder


def test_scores_are_a_line_a_row(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = saved(tmp_path / "judge", "reward")
    rows = [{"id": "a", "answers": [{"text": "x", "score": 0.5}]}, {"id": "b", "answers": []}]
    asked: list[tuple[Any, ...]] = []

    def score_file(folder: Path, data: Path, **given: Any) -> Iterator[dict[str, Any]]:
        asked.append((folder, data, given))
        yield from rows

    monkeypatch.setattr("honed.training.scoring.score_file", score_file)
    done = honed_("score", "--model", str(judge), "--data", "in.jsonl", "--tokens-per-pass", "64")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert asked == [(judge, Path("in.jsonl"), {"dtype": "auto", "device": "auto", "tokens_per_pass": 64})]
    assert honed_("score", "--model", str(judge), "--data", "in.jsonl", "--output", "out.jsonl").stdout == ""
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == rows


def test_a_file_of_scores_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = saved(tmp_path / "judge", "reward")

    def score_file(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        yield {"id": "a"}
        raise TrainingError("in.jsonl:2: is wrong.")

    monkeypatch.setattr("honed.training.scoring.score_file", score_file)
    done = honed_("score", "--model", str(judge), "--data", "in.jsonl", "--output", "out.jsonl")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "honed: in.jsonl:2: is wrong.\n")
    assert list(Path.cwd().glob("*out*")) == []


def test_a_row_that_is_malformed_is_named_before_weights_are_read(tmp_path: Path) -> None:
    judge = saved(tmp_path / "judge", "reward")
    (judge / "model.safetensors").write_bytes(b"no weights")
    Path("in.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}], "answers": 1}\n')
    done = honed_("score", "--model", str(judge), "--data", "in.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("honed: in.jsonl:1: 'answers' must be a list")


def test_only_a_reward_model_scores(tmp_path: Path) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    done = honed_("score", "--model", str(policy), "--data", "in.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("honed: policy is a checkpoint of the stage source, and no reward model: name one")
