"""The pretraining mix: texts of a file, those that are held out, and pieces that seed and step alone decide."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from fakes import tiny_tokenizer
from pydantic import ValidationError

from honed.training.configs import PPOConfig
from honed.training.failures import TrainingError
from honed.training.pretraining import MEASURED, Pretraining, load_pretraining
from honed.training.trees import Tree


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def numbered(count: int) -> list[str]:
    return [f"text {number}" for number in range(1, count + 1)]


def decoded(texts: tuple[tuple[int, ...], ...]) -> list[str]:
    return [tiny_tokenizer().decode(list(text)) for text in texts]


def test_every_tenth_text_is_held_out(tmp_path: Path) -> None:
    found = load_pretraining(write(tmp_path / "texts.jsonl", numbered(25)), tiny_tokenizer())
    assert decoded(found.held_out) == ["text 10", "text 20"]
    assert decoded(found.texts) == [text for text in numbered(25) if text not in ("text 10", "text 20")]


def test_texts_of_less_than_two_tokens_do_not_count(tmp_path: Path) -> None:
    """There is nothing to predict in them."""
    texts = ["", "a", *numbered(10)]
    assert load_pretraining(write(tmp_path / "texts.jsonl", texts), tiny_tokenizer()) == load_pretraining(
        write(tmp_path / "same.jsonl", numbered(10)), tiny_tokenizer()
    )


def test_a_gzipped_file_is_read(tmp_path: Path) -> None:
    plain = write(tmp_path / "texts.jsonl", numbered(12))
    zipped = tmp_path / "texts.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_pretraining(zipped, tiny_tokenizer()) == load_pretraining(plain, tiny_tokenizer())


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", numbered(9))
    with pytest.raises(TrainingError, match=r"texts\.jsonl has 9 texts: the pretraining mix needs at least 10"):
        load_pretraining(path, tiny_tokenizer())


@pytest.mark.parametrize("row", ['{"content": "no text"}', '{"text": 3}', '["text"]', "{"])
def test_a_row_without_a_text_is_named(row: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "fine"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"texts\.jsonl:2: a row of texts needs a string `text`"):
        load_pretraining(path, tiny_tokenizer())


@pytest.mark.parametrize("content", [b"\x1f\x8b damaged", None])
def test_a_file_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError):
        load_pretraining(path, tiny_tokenizer())


MIX = Pretraining(texts=(tuple(range(100, 130)), (200, 201, 202)), held_out=(tuple(range(50)), (60, 61)))


def test_pieces_are_runs_of_a_text_all_but_whose_first_token_are_learned() -> None:
    pieces = MIX.pieces(200, 8, "here")
    starts = set()
    for tree in pieces:
        (answer,) = tree.answers
        ids = tree.prompt + answer
        assert len(tree.prompt) == 1
        if ids[0] == 200:
            assert ids == (200, 201, 202)
        else:
            assert ids == tuple(range(ids[0], ids[0] + 8))
            starts.add(ids[0])
    assert starts == set(range(100, 123))  # from the first to the last that is whole


def test_pieces_are_the_same_for_the_same_seed_and_step_and_no_others() -> None:
    """So that a resumed run draws what it would have drawn."""
    assert MIX.pieces(20, 8, 0, 7) == MIX.pieces(20, 8, 0, 7)
    assert len({tuple(MIX.pieces(20, 8, *where)) for where in ((0, 7), (0, 8), (1, 7))}) == 3


def test_what_is_measured_on_are_the_beginnings_of_held_out_texts() -> None:
    assert MIX.measured(4) == [Tree((0,), ((1, 2, 3),)), Tree((60,), ((61,),))]
    many = Pretraining(texts=MIX.texts, held_out=((1, 2),) * (MEASURED + 9))
    assert len(many.measured(4)) == MEASURED


def test_pieces_of_one_token_which_teach_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="ptx_tokens"):
        PPOConfig(ptx_tokens=1)
