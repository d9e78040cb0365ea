"""The gate on tiny policies: a better one passes, a worse one and the same one do not, and every rule refuses alone."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from completions import add
from conftest import LiveServer
from exchanged import order, say
from fakes import save_tiny_policy
from gated import ANSWER_TOKENS, POLICIES, SPLITS, gate, gold, make_gated_home, words
from labeling_tasks import say as say_of_task
from labeling_tasks import take, taken
from openai_peer import serve
from sqlalchemy import Engine
from test_evaluation_external import answers_of, reply
from toy_runs import write_rows
from typer.testing import CliRunner

from honed.cli import app
from honed.cli.options import option_name
from honed.models.checkpoint import checkpoint_id, read_lineage
from honed.server.store.database import writing
from honed.server.store.tables import Setting
from honed.server.store.upserts import insert_missing
from honed.training.configs import DataConfig, RewardConfig, Stage
from honed.training.data.datasets import load_dataset
from honed.training.evaluate import ANSWERS_FILE, EVALUATION_FILE, REPORT_FILE, evaluate
from honed.training.evaluation.config import EvaluationConfig
from honed.training.failures import TrainingError
from honed.training.runs import run

KEYS = {
    "candidate", "incumbent", "judge", "promote", "reasons", "win_rate", "length_controlled", "kl", "loss", "refusals",
    "repetition", "instructions", "lengths", "external", "people", "data", "settings",
}  # fmt: skip
WHO = ("candidate", "incumbent", "judge_model")
ROOMY: dict[str, Any] = {  # for instructions; who answers with letters alone follows little
    "max_tokens": 256,
    "max_instruction_drop": 1.0,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gated_home(tmp_path_factory.mktemp("home"))


def decided(home: Path, **changes: Any) -> dict[str, Any]:
    return evaluate(gate(home, **changes), home=home, engine=None, show=False)


@pytest.fixture(scope="module")
def good(home: Path) -> dict[str, Any]:
    return decided(home, **ROOMY)


def folder_of(home: Path, result: dict[str, Any]) -> Path:
    return home / "runs" / f"{result['candidate']['name']}-evaluation"


def rows_of(home: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    text = (folder_of(home, result) / ANSWERS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
    elif isinstance(value, float):
        yield value


def test_a_better_policy_is_promoted(home: Path, good: dict[str, Any]) -> None:
    assert good["promote"] is True
    assert good["length_controlled"]["low"] > 0.6
    assert good["win_rate"]["low"] <= good["win_rate"]["mean"] <= good["win_rate"]["high"]
    assert any("length-controlled win rate" in reason and "is over 50.0 %" in reason for reason in good["reasons"])
    rows = rows_of(home, good)
    ours, theirs = ([gold(each["text"]) for row in rows for each in row[who] if each["text"]]
                    for who in ("candidate", "incumbent"))  # fmt: skip
    assert sum(ours) / len(ours) > sum(theirs) / len(theirs) + 0.3, "by the scorer that nobody was shown"


def test_a_worse_policy_is_refused_by_its_number(home: Path) -> None:
    bad = decided(home, candidate="bad")
    assert bad["promote"] is False
    assert bad["length_controlled"]["high"] < 0.5
    assert bad["win_rate"]["losses"] > bad["win_rate"]["wins"]
    assert "its lower bound is not over 50.0 % (min_win_rate" in bad["reasons"][0]


def test_the_same_policy_is_not_promoted(home: Path) -> None:
    same = decided(home, candidate="incumbent", **ROOMY)
    assert same["promote"] is False
    counts = {"mean": 0.5, "low": 0.5, "high": 0.5, "wins": 0, "losses": 0}
    assert same["win_rate"].items() >= counts.items()
    assert same["win_rate"]["ties"] == same["win_rate"]["prompts"]
    assert same["length_controlled"]["mean"] == 0.5
    assert same["kl"] == {"mean": 0.0, "standard_error": 0.0}
    assert [same[key]["rise"] for key in ("refusals", "repetition")] == [0.0, 0.0]
    assert (same["instructions"]["difference"], same["lengths"]["ratio"]) == (0.0, 1.0)


def test_the_result_says_who_what_and_why(home: Path, good: dict[str, Any]) -> None:
    assert good.keys() == KEYS
    for who, name in (("candidate", "good"), ("incumbent", "incumbent"), ("judge", "judge")):
        assert good[who] == {"name": name, "id": checkpoint_id(home / "models" / name)}
    unsaid = {"judge_url", "judge_key_env"}
    assert good["settings"] == gate(home, **ROOMY).model_dump(mode="json", exclude=unsaid)
    prompts = good["win_rate"]["prompts"]
    assert prompts == good["data"]["prompts"] == len(rows_of(home, good)) > 30
    assert sum(good["win_rate"][key] for key in ("wins", "ties", "losses")) == prompts
    assert good["instructions"]["asked"] >= 25
    assert all(map(math.isfinite, numbers_in(good)))


def test_what_an_evaluation_leaves(home: Path, good: dict[str, Any]) -> None:
    folder = folder_of(home, good)
    assert {each.name for each in folder.iterdir()} == {EVALUATION_FILE, ANSWERS_FILE, REPORT_FILE}
    assert json.loads((folder / EVALUATION_FILE).read_bytes()) == good
    page = (folder / REPORT_FILE).read_text(encoding="utf-8")
    for said in ("good is to be promoted", "max_loss_rise", "<svg", rows_of(home, good)[0]["prompt"]):
        assert said in page
    for row in rows_of(home, good):
        assert row.keys() == {"prompt", "candidate", "incumbent", "share"}
        for who in ("candidate", "incumbent"):
            assert len(row[who]) == 2
            assert all(0 < each["tokens"] <= ANSWER_TOKENS for each in row[who])
            assert all(each["ended"] or each["tokens"] == ANSWER_TOKENS for each in row[who])


def test_the_same_again_is_the_same_and_takes_the_place_of_the_old(home: Path, good: dict[str, Any]) -> None:
    folder = folder_of(home, good)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    (folder / ANSWERS_FILE).write_text("old")
    assert decided(home, **ROOMY) == good
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    other = decided(home, seed=1, output="other")
    assert other["win_rate"] != good["win_rate"]
    assert (home / "runs" / "other" / REPORT_FILE).is_file()


def test_win_shares_are_those_of_the_written_scores(home: Path, good: dict[str, Any]) -> None:
    shares = []
    for row in rows_of(home, good):
        won = [
            0.5 if x["text"] == y["text"] or x["score"] == y["score"] else float(x["score"] > y["score"])
            for x in row["candidate"]
            for y in row["incumbent"]
        ]
        shares.append(sum(won) / len(won))
        assert row["share"] == pytest.approx(shares[-1])
    assert good["win_rate"]["mean"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)


def test_limits_are_applied_to_what_was_measured(home: Path) -> None:
    texts = str(write_rows(home / "all.jsonl", ({"text": "abcdef" * n} for n in range(1, 5))))
    limits = {"min_win_rate": 0.99, "max_loss_rise": 0.0, "max_kl": 0.1, "max_length_ratio": 0.1}
    result = decided(home, output="broken", text=texts, **limits)
    assert result["promote"] is False
    assert [name in reason for name, reason in zip(limits, result["reasons"], strict=True)] == [True] * 4


def test_what_nobody_was_trained_on_is_asked_and_the_judge_knows_none_of_it(home: Path, good: dict[str, Any]) -> None:
    """The splits of the same words: what the policies learned from, what is asked, and what the judge learned from."""

    def prompts(file: str, stage: Stage, *splits: str, **settings: Any) -> set[str]:
        dataset = load_dataset(DataConfig(data=str(home / file), **SPLITS | settings), stage, None)
        return {each.record.prompt[-1]["content"] for each in dataset.examples if each.split in splits}

    asked = {row["prompt"] for row in rows_of(home, good)}
    learned = set().union(*(prompts(f"{name}.jsonl", "sft", "train") for name in POLICIES))
    judge = prompts("rankings.jsonl", "reward", "train", "validation", judge=True)
    optimised = prompts("rankings.jsonl", "reward", "train", "validation")
    assert asked <= optimised
    assert asked.isdisjoint(learned)
    assert asked.isdisjoint(judge)
    assert learned.isdisjoint(judge)
    assert optimised.isdisjoint(judge)
    assert good["data"].items() >= {"trained_on": 0, "too_long": 0, "not_looked_at": []}.items()


def test_prompts_that_something_was_trained_on_are_left_out(home: Path, good: dict[str, Any]) -> None:
    """Held out by another seed, many of them were."""
    result = decided(home, split_seed=1, output="mixed")
    assert result["data"]["trained_on"] > 20
    rows = [json.loads(line) for line in (home / "runs" / "mixed" / ANSWERS_FILE).read_text().splitlines()]
    dataset = load_dataset(DataConfig(data=str(home / "good.jsonl"), **SPLITS), "sft", None)
    learned = {each.record.prompt[-1]["content"] for each in dataset.of("train")}
    assert learned.isdisjoint(row["prompt"] for row in rows)


def test_a_store_is_asked_and_so_are_its_snapshots(home: Path, store: Engine) -> None:
    """The judge's data are a snapshot, which is read again to see that nobody is asked what it learned from."""
    with writing(store) as connection:
        insert_missing(connection, Setting, [{"name": "user_salt", "value": "0" * 32}])
    for number, word in enumerate(words(120, seed=5)):
        one = add(store, word, "ab", "ef", user=f"user-{number % 60}")
        order(store, (one, 0, 1), (one, 1, 2))
        say(store, one, "correction", text="aba")
    shutil.rmtree(home / "models" / "stored", ignore_errors=True)
    shutil.rmtree(home / "runs" / "stored", ignore_errors=True)
    common = {"dtype": "float32", "device": "cpu", "max_tokens": 40, "validation": 0.3, "test": 0.4}
    trained = RewardConfig.model_validate(common | {"model": "tiny", "output": "stored", "judge": True, "epochs": 1})
    run(trained, home=home, engine=store, show=False)
    who = {"candidate": "good", "incumbent": "incumbent", "judge_model": "stored", "output": "of-the-store"}
    own = {"max_new_tokens": ANSWER_TOKENS, "max_loss_rise": 50.0}
    config = EvaluationConfig.model_validate(common | who | own)
    result = evaluate(config, home=home, engine=store, show=False)
    assert result["data"].items() >= {"trained_on": 0, "not_looked_at": []}.items()
    assert result["loss"]["of"] == "demonstrations of the test split"
    lineage = read_lineage(home / "models" / "stored")
    assert lineage is not None
    assert lineage.dataset is not None
    made = load_dataset(DataConfig(data=lineage.dataset), "reward", store)
    rows = (home / "runs" / "of-the-store" / ANSWERS_FILE).read_text(encoding="utf-8").splitlines()
    asked = {json.loads(row)["prompt"] for row in rows}
    assert asked.isdisjoint(each.record.prompt[-1]["content"] for each in made.examples)
    ppo = load_dataset(DataConfig(data=result["data"]["id"]), "ppo", store)
    assert asked <= {each.record.prompt[-1]["content"] for each in ppo.of("validation")}, "it has a snapshot too"
    everybody = evaluate(config.model_copy(update={"split_seed": 1}), home=home, engine=store, show=False)
    assert everybody["data"]["trained_on"] > 0
    ask_people(
        home, store, config.model_copy(update={"people": 12, "min_win_rate": 0.2}), [json.loads(row) for row in rows]
    )


def ask_people(home: Path, store: Engine, config: EvaluationConfig, rows: list[dict[str, Any]]) -> None:
    """Labelers get the first answers to the first prompts, where the rest lets the candidate through and only there; an
    evaluation that is made anew goes by what they said. (This judge has learned little: it gets a low threshold.)"""
    strict = config.model_copy(update={"max_kl": 0.0, "output": "refused"})
    refused = evaluate(strict, home=home, engine=store, show=False)
    assert (refused["promote"], refused["people"], take(store, "ada")) == (False, None, None)
    given = {name: getattr(config, name) for name in config.model_fields_set if name != "output"}
    options = [word for name, value in given.items() for word in (option_name(name), str(value))]
    url = store.url.render_as_string(hide_password=False)
    typed = CliRunner().invoke(
        app, ["evaluate", *options, "--output", "of-the-store", "--database-url", url], env={"HONED_HOME": str(home)}
    )
    assert (typed.exit_code, typed.stdout.splitlines()[0]) == (
        4, "good waits for labelers, by all else it is better than incumbent."
    ), typed.output  # fmt: skip
    waits = json.loads((home / "runs" / "of-the-store" / EVALUATION_FILE).read_text(encoding="utf-8"))
    assert (waits["promote"], waits["people"]["asked"]) == (None, 12)
    assert f"0 prompts judged, {waits['people']['waiting']} wait for labelers" in typed.stdout
    assert "before people have judged it" in (home / "runs" / "of-the-store" / REPORT_FILE).read_text(encoding="utf-8")
    firsts = {row["prompt"]: [row[side][0]["text"] for side in ("candidate", "incumbent")] for row in rows[:12]}
    for _ in range(waits["people"]["waiting"]):
        lease = taken(store, "ada")
        shown = {answer.text: answer.label for answer in lease.answers}
        ours, theirs = firsts[lease.messages[-1]["content"]]
        assert set(shown) == {ours, theirs}
        say_of_task(store, lease.task_id, "ada", ranking=[[shown[ours]], [shown[theirs]]])
    decided = evaluate(config, home=home, engine=store, show=False)
    assert decided["promote"] is True
    assert decided["people"]["wins"] == 12 - decided["people"]["same"]
    assert "win rate by people" in (home / "runs" / "of-the-store" / REPORT_FILE).read_text(encoding="utf-8")


def test_people_are_asked_about_what_is_in_the_store(home: Path) -> None:
    with pytest.raises(TrainingError, match="--people: labelers see what is in the store"):
        decided(home, people=10)


def relabel(home: Path, name: str, to: str, **lineage: Any) -> None:
    """A copy of a checkpoint under another name, with these fields of its lineage."""
    folder = home / "models" / to
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "models" / name, folder)
    path = folder / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"name": to} | lineage))


def with_reward_model(home: Path, judge: str) -> None:
    """A policy `tuned` that says it was trained against `judge`, and after it."""
    settings = json.loads((home / "models" / "good" / "lineage.json").read_bytes())["settings"]
    created = datetime.now(UTC).isoformat()
    changes = {"id": "ckpt-0123456789ab", "created": created, "settings": settings | {"reward_model": judge}}
    relabel(home, "good", "tuned", **changes)


def test_a_judge_that_was_optimised_against_is_refused(home: Path) -> None:
    with_reward_model(home, "judge")
    with pytest.raises(TrainingError, match="tuned was trained against judge, which therefore cannot judge it"):
        decided(home, candidate="tuned")


def test_a_judge_that_learned_what_the_reward_model_did_is_refused(home: Path) -> None:
    with_reward_model(home, "optimised")
    assert decided(home, candidate="tuned")["candidate"]["name"] == "tuned"
    relabel(home, "optimised", "twin", id="ckpt-aaaaaaaaaaaa")
    with pytest.raises(TrainingError, match=r"twin learned from \d+ prompts that optimised was trained on.*--judge"):
        decided(home, candidate="tuned", judge_model="twin")
    relabel(home, "good", "child", id="ckpt-bbbbbbbbbbbb", parent=checkpoint_id(home / "models" / "tuned"))
    both = {"candidate": "child", "incumbent": "tuned", "judge_model": "twin"}
    assert decided(home, **both)["judge"]["name"] == "twin", "both come from what was trained against it"


def test_what_cannot_be_looked_up_is_said_and_models_are_named_without_their_folders(home: Path) -> None:
    settings = json.loads((home / "models" / "good" / "lineage.json").read_bytes())["settings"]
    gone = {"parent": "ckpt-cccccccccccc", "settings": settings | {"model": str(home / "models" / "gone")}}
    relabel(home, "good", "orphan", id="ckpt-dddddddddddd", **gone)
    folders = {name: str(home / "models" / name) for name in ("orphan", "incumbent", "judge")}
    result = decided(home, max_prompts=10, samples=1, output="lost", **dict(zip(WHO, folders.values(), strict=True)))
    assert result["data"]["not_looked_at"] == ["gone"]
    assert "[&quot;gone&quot;]" in (home / "runs" / "lost" / REPORT_FILE).read_text(encoding="utf-8")
    assert [result["settings"][who] for who in WHO] == list(folders)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"judge_model": "good"}, r"good is a checkpoint of the stage sft, and no reward model.*--judge-model"),
        ({"candidate": "optimised"}, "optimised is a reward model, which answers nothing: name a policy with --candid"),
        ({"incumbent": "judge"}, "name a policy with --incumbent"),
        ({"validation": 9}, r"There are \d held-out prompts, and an evaluation needs 10: .*--validation"),
        ({"max_prompts": 9}, r"9 of \d+ held-out prompts can be asked, and an evaluation needs 10"),
        ({"max_tokens": 7}, r"0 of \d+ held-out prompts can be asked.*\d+ leave no room for an answer"),
        ({"output": "judge"}, "judge is a training run, which has a report of its own"),
        ({"text": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(home: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        decided(home, **changes)


def test_policies_with_other_tokens_are_compared_by_what_they_say(home: Path) -> None:
    save_tiny_policy(home / "models" / "odd", name="odd")
    path = home / "models" / "odd" / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    words = tokenizer["model"]["vocab"]
    words["!"], words["?"] = words["?"], words["!"]
    path.write_text(json.dumps(tokenizer))
    result = decided(home, incumbent="odd", output="odd")
    assert result["kl"] == {
        "mean": None, "standard_error": None, "reason": "The policies have different tokens."
    }  # fmt: skip
    assert result["loss"]["reason"] == "The policies have different tokens."
    assert result["promote"] is True
    asked = decided(home, incumbent="odd", output="odd", max_kl=100.0)
    assert "instructions leave room" in asked["instructions"]["reason"]
    assert asked["reasons"] == ["The policies have different tokens (max_kl: at most 100)"]


def test_a_second_judge_has_to_agree(home: Path, live_server: LiveServer) -> None:
    """One that likes a, one that dislikes it, and a server of ours with a model that says neither A nor B."""

    def likes(letter: str) -> Any:
        def judged(body: Any) -> Any:
            one, two = (text.count(letter) for text in answers_of(body))
            return reply("A" if one > two else "B" if two > one else "Neither")

        return judged

    few = {"max_prompts": 20, "output": "second", "judge_name": "large"}
    for letter, promote in (("a", True), ("f", False)):
        with serve(likes(letter)) as peer:
            result = decided(home, judge_url=f"{peer.url}/v1", **few)
        assert result["promote"] is promote, result["reasons"]
        assert result["external"]["prompts"] == 20
        assert (result["external"]["low"] > 0.5) is promote
        assert result["external"]["model"] == result["settings"]["judge_name"] == "large"
        written = (home / "runs" / "second" / EVALUATION_FILE).read_text(encoding="utf-8")
        assert json.loads(written) == result
        assert peer.url.removeprefix("http://") not in written
        assert peer.url not in (home / "runs" / "second" / REPORT_FILE).read_text(encoding="utf-8")
    assert ["win rate by large" in reason for reason in result["reasons"]] == [True]
    ours = decided(home, judge_url=f"{live_server.url}/v1", **few | {"judge_name": live_server.model})
    assert ours["promote"] is False
    assert ours["external"].items() >= {"mean": 0.5, "low": 0.5, "high": 0.5, "ties": 20}.items()
    assert ours["external"]["unusable"] > 0


def typed(home: Path, *more: str) -> Any:
    words = ["--data", str(home / "rankings.jsonl"), "--validation", "0.2", "--test", "0.3", "--max-tokens", "256"]
    words += ["--max-new-tokens", "6", "--dtype", "float32", "--max-instruction-drop", "1", "--device", "cpu"]
    names = ["--incumbent", "incumbent", "--judge-model", "judge"]
    return CliRunner().invoke(app, ["evaluate", *names, *words, *more])


def test_the_command_says_the_verdict_and_its_status_is_one(
    home: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_HOME", str(home))
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    passed = typed(home, "--candidate", "good")
    assert passed.exit_code == 0, passed.output
    assert passed.stdout.startswith("good is better than incumbent.\n")
    assert good["reasons"][0] in passed.stdout
    assert str(folder_of(home, good) / REPORT_FILE) in passed.stdout
    assert "judge judges" in passed.stderr
    refused = typed(home, "--candidate", "bad", "--quiet")
    assert refused.exit_code == 3, refused.output
    assert refused.stdout.startswith("bad is not to take the place of incumbent.\n")
    assert "judge judges" not in refused.stderr
    wrong = typed(home, "--candidate", "nobody")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("honed: ")
    assert typed(home).exit_code == 2, "without a candidate"
    assert typed(home, "--candidate", "good", "--judge").exit_code == 2, "no option of this command"
    limits = typed(home, "--candidate", "good", "--max-kl", "nan")
    assert limits.exit_code == 1
    assert "--max-kl" in limits.stderr
