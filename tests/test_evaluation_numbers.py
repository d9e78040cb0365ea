"""The KL and the loss of an evaluation, against single passes and what training has measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from gated import SPLITS, gate, make_gated_home
from test_evaluate import decided
from toy_runs import write_rows

from honed.models.checkpoint import read_lineage
from honed.training.configs import DataConfig
from honed.training.data.datasets import load_dataset
from honed.training.evaluate import ANSWERS_FILE, REPORT_FILE
from honed.training.evaluation.party import gather
from honed.training.evaluation.questions import load_questions
from honed.training.forward import policy_logits
from honed.training.loading import load_model
from honed.training.objectives import token_logprobs
from honed.training.trees import Tree, pack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gated_home(tmp_path_factory.mktemp("home"))


def test_kl_is_that_of_single_passes_over_the_candidates_answers(home: Path) -> None:
    result = decided(home, max_prompts=10, samples=1, temperature=0.7, output="few")
    rows = [json.loads(line) for line in (home / "runs" / "few" / ANSWERS_FILE).read_text().splitlines()]
    cpu = torch.device("cpu")
    models = [load_model(home / "models" / name, torch.float32, cpu) for name in ("good", "incumbent")]
    tokenizer = models[0].tokenizer
    differences = []
    for row in rows:
        [answer] = row["candidate"]
        ids = tuple(tokenizer.encode(answer["text"], add_special_tokens=False))
        ids += (tokenizer.eos_token_id,) * answer["ended"]
        assert len(ids) == answer["tokens"]
        packed = pack([Tree(tuple(tokenizer.encode(row["prompt"])), (ids,))])
        with torch.no_grad():
            ours, theirs = (
                token_logprobs(policy_logits(each.model, packed), packed.target_ids, 0.7).sum() for each in models
            )
        differences.append(float(ours - theirs))
    mean = sum(differences) / len(differences)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in differences) / (len(differences) - 1))
    assert result["kl"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert result["kl"]["standard_error"] == pytest.approx(deviation / math.sqrt(10), abs=1e-4)


def test_the_loss_is_that_of_the_text_or_of_held_out_demonstrations(home: Path) -> None:
    without = decided(home)["loss"]
    assert without["rise"] is None
    assert without["reason"].startswith("There are no held-out demonstrations. (rankings.jsonl ")
    assert str(home) not in without["reason"]
    texts = write_rows(home / "texts.jsonl", ({"text": "abcdef" * n} for n in range(1, 5)))
    read = decided(home, text=str(texts), output="read")["loss"]
    assert read["of"] == "texts.jsonl"
    assert read["rise"] == pytest.approx(read["candidate"] - read["incumbent"], abs=2e-6)


def test_demonstrations_are_those_that_nothing_was_chosen_by_where_there_are_some(home: Path) -> None:
    """SFT has chosen its epoch by the validation split, which is measured where the test split has nothing."""
    trained = read_lineage(home / "models" / "incumbent")
    assert trained is not None
    chosen_by = pytest.approx(trained.metrics["validation/loss"], abs=1e-4)
    file = str(home / "incumbent.jsonl")
    loss = decided(home, data=file, output="shown", max_loss_rise=50.0)["loss"]
    assert loss["of"] == "demonstrations of the test split"
    assert loss["incumbent"] != chosen_by
    assert f"loss on {loss['of']}" in (home / "runs" / "shown" / REPORT_FILE).read_text(encoding="utf-8")
    held_out = {"validation": SPLITS["test"], "test": 0}  # the same ones, under the other name
    same = decided(home, data=file, output="shown", max_loss_rise=50.0, **held_out)["loss"]
    assert (same["of"], same["incumbent"]) == ("demonstrations of the validation split", loss["incumbent"])
    dataset = load_dataset(DataConfig(data=file, **SPLITS), "sft", None)
    config = gate(home, data=file)
    shown = load_questions(config, gather(config, home, None), None).demonstrations
    assert shown == dataset.of("test"), "also those whose prompts the judge knows"
    tested = {each.record.prompt[-1]["content"] for each in dataset.of("test")}
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    rest = (row for row in rows if row["prompt"] not in tested)
    untested = str(write_rows(home / "untested.jsonl", rest))
    loss = decided(home, data=untested, output="shown", max_loss_rise=50.0)["loss"]
    assert (loss["of"], loss["incumbent"]) == ("demonstrations of the validation split", chosen_by)
