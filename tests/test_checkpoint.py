"""Checkpoint folders: whole or not there, named by their lineage, refused where they cannot be served."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes import save_tiny_policy, tiny_model, tiny_tokenizer

from honed.models.checkpoint import Lineage, checkpoint_id, fault_in, read_lineage, save_checkpoint

LINEAGE = Lineage(
    id="ckpt-0123456789ab",
    name="tiny",
    stage="source",
    source="random",
    created=datetime(2026, 1, 2, tzinfo=UTC),
    settings={"seed": 0},
    metrics={"loss": 1.5},
)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model folder that did not come through `save_checkpoint`: it has no lineage."""
    folder = save_tiny_policy(tmp_path / "bare")
    (folder / "lineage.json").unlink()
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "deep" / "a", tiny_model(), tiny_tokenizer(), LINEAGE)
    assert read_lineage(folder) == LINEAGE
    assert checkpoint_id(folder) == LINEAGE.id
    assert fault_in(folder) is None
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_every_file_is_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {plain.stat().st_mode}


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    before = checkpoint_id(folder)
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_tiny_policy(folder, seed=1)
    assert checkpoint_id(folder) == before


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    unwritable = LINEAGE.model_copy(update={"settings": {"not": object()}})
    with pytest.raises(ValueError, match="serialize"):
        save_checkpoint(tmp_path / "a", tiny_model(), tiny_tokenizer(), unwritable)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_killed_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import fakes, honed.models.checkpoint as c\n"
        "tokenizer = fakes.tiny_tokenizer()\n"
        "tokenizer.save_pretrained = lambda folder: os.kill(os.getpid(), 9)\n"
        "lineage = c.Lineage(id='x', name='x', stage='source', source='x', created='2026-01-01T00:00:00Z')\n"
        "c.save_checkpoint(Path(sys.argv[1]), fakes.tiny_model(), tokenizer, lineage)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a"), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert not (tmp_path / "a").exists()
    assert [path.name.startswith(".a.") for path in tmp_path.iterdir()] == [True]
    assert fault_in(save_tiny_policy(tmp_path / "a")) is None  # the leftover is in nobody's way


def test_a_damaged_lineage_says_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    (folder / "lineage.json").write_text("{")
    with pytest.raises(ValueError, match=r"lineage\.json is not a lineage"):
        read_lineage(folder)


def test_a_lineage_s_time_has_a_zone() -> None:
    with pytest.raises(ValueError, match="timezone"):
        Lineage(id="a", name="a", stage="source", source="a", created=datetime(2026, 1, 1))  # noqa: DTZ001  the point


def test_without_a_lineage_the_id_follows_config_and_weight_sizes(bare: Path) -> None:
    first = checkpoint_id(bare)
    assert checkpoint_id(bare) == first
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"0")
    second = checkpoint_id(bare)
    (bare / "config.json").write_text("{}")
    assert len({first, second, checkpoint_id(bare)}) == 3


def test_a_bare_model_folder_has_no_fault(bare: Path) -> None:
    assert fault_in(bare) is None
    assert read_lineage(bare) is None


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(bare: Path, missing: str, said: str) -> None:
    (bare / missing).unlink()
    assert said in str(fault_in(bare))


def test_a_missing_shard_is_named(bare: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (bare / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors" in str(fault_in(bare))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no causal"),
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "'t5'"),
        (
            {"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": True},
            "no causal",
        ),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "no causal"),
        ({"model_type": "nobody-knows"}, "'nobody-knows'"),
        ({}, "names no model_type"),
        ([], "damaged"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(bare: Path, config: object, said: str) -> None:
    (bare / "config.json").write_text(json.dumps(config))
    assert said in str(fault_in(bare))
