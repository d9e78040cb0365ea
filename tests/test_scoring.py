"""What a reward model says of trees and of the rows of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer

from honed.models.scalar_head import ScalarModel
from honed.training.attention import ATTENTION
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.scoring import ROWS_AT_ONCE, normalised, score_file, score_trees
from honed.training.trees import Tree

TREES = [
    Tree((10, 11, 12), ((20, 21, 22, 23), (30,), (40, 41))),
    Tree((10, 11, 12), ((50, 51),)),
    Tree(tuple(range(60, 80)), ((5, 6), (7, 8, 9))),
]


def model_of(architecture: Architecture = "llama") -> ScalarModel:
    model = ScalarModel(tiny_model(architecture, seed=4).base_model)
    model.backbone.set_attn_implementation(ATTENTION)
    model.draw_head(1)
    model.set_scale(0.5, 2.0)
    return model.eval()


@torch.no_grad()
def raw(model: ScalarModel, ids: tuple[int, ...]) -> float:
    """The head's number at the last token of one sequence, by transformers."""
    hidden = model.backbone(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
    return float(model.head(hidden))


@pytest.mark.parametrize("tokens_per_pass", [1, 12, 1000])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rule_1_trees_are_scored_as_each_answer_alone_at_its_last_token(
    architecture: Architecture, tokens_per_pass: int
) -> None:
    """In the order of the trees and of their answers, however they share passes."""
    model = model_of(architecture)
    found = score_trees(model, TREES, tokens_per_pass)
    assert [len(numbers) for numbers in found] == [3, 1, 2]
    for tree, numbers in zip(TREES, found, strict=True):
        assert numbers == pytest.approx([raw(model, tree.prompt + answer) for answer in tree.answers], abs=1e-4)


def test_nothing_is_scored_as_nothing() -> None:
    assert score_trees(model_of(), [], 10) == []


def test_rule_8_scores_are_on_the_scale_of_the_model() -> None:
    """Less its mean of 0.5, divided by its deviation of 2."""
    assert normalised(model_of(), [[0.5, 2.5], [-3.5]]) == [[0.0, 1.0], [-2.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    model_of().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Question {number}"}],
        "answers": [{"text": f"good {number}", "rank": 1, "source": "ann"}, {"text": "bad", "rank": 2}],
        **more,
    }


def test_rows_of_a_file_come_in_their_order_with_the_scores_of_whole_answers(folder: Path, tmp_path: Path) -> None:
    """More rows than are read at once. The end of an answer is part of it."""
    count = ROWS_AT_ONCE + 6
    data = write(tmp_path / "rankings.jsonl", [row(number, id=f"r{number}") for number in range(count)])
    found = list(score_file(folder, data, dtype="float32", device="cpu"))
    assert [each["id"] for each in found] == [f"r{number}" for number in range(count)]
    model, encoder = model_of(), Encoder(tiny_tokenizer(), 512, 512)
    for number in (0, 1, count - 1):
        each = found[number]
        assert each["messages"] == row(number)["messages"]
        tree = encoder.tree(each["messages"], [answer["text"] for answer in each["answers"]])
        assert tree is not None
        expected = [(raw(model, tree.prompt + answer) - 0.5) / 2.0 for answer in tree.answers]
        assert [answer.pop("score") for answer in each["answers"]] == pytest.approx(expected, abs=1e-4)
        first, second = row(number)["answers"]
        assert each["answers"] == [first, second | {"source": None}]


def test_how_many_tokens_a_pass_has_changes_no_score(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rankings.jsonl", [row(number) for number in range(5)])
    scores = [
        [answer["score"] for each in score_file(folder, data, dtype="float32", device="cpu", tokens_per_pass=tokens)
         for answer in each["answers"]]
        for tokens in (1, 1000)
    ]  # fmt: skip
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "Why?", "completion": "So."}, r"rows\.jsonl:2: scoring needs rows with `messages` and `answers`"),
        ({"messages": [], "answers": []}, r"rows\.jsonl:2: "),
        (
            row(1, messages=[{"role": "user", "content": "x" * 600}]),
            r"rows\.jsonl:2: the prompt leaves no room in the 512 tokens",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(bad: dict[str, Any], reason: str, folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [row(0), bad])
    with pytest.raises(TrainingError, match=reason):
        list(score_file(folder, data, device="cpu"))


def test_rows_are_read_before_any_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "Why?", "completion": "So."}])
    with pytest.raises(TrainingError, match="scoring needs rows"):
        list(score_file(tmp_path / "no such folder", data))
