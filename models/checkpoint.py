"""A checkpoint: one immutable folder with the weights, the tokenizer, the chat template and its lineage.

Owns how such a folder is written, named and judged whole. Does not own where weights come from
(`sources.py`) nor running them (`policy.py`), and never changes a folder that is there.

Invariant: a folder stands under its final name only once every byte of it is on the disk. A write that
dies leaves at most a hidden sibling (`.NAME.HEX.partial`), which nothing reads.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

LINEAGE_FILE = "lineage.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


class Lineage(BaseModel):
    """Where a checkpoint comes from. `parent` is the id of the checkpoint that it was trained from, `dataset` that of
    the data, which a snapshot of the store has too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    stage: Literal["source", "sft", "reward", "ppo", "dpo", "kto"]
    parent: str | None = None
    source: str
    dataset: str | None = None
    created: AwareDatetime
    settings: Mapping[str, Any] = {}
    metrics: Mapping[str, Any] = {}


def new_checkpoint_id() -> str:
    """A fresh id: `ckpt-` and 12 hexadecimal digits."""
    return f"ckpt-{uuid4().hex[:12]}"


class Savable(Protocol):
    """What transformers' models offer, and ours that hold one."""

    def save_pretrained(self, folder: Path, /, *, state_dict: Any = None) -> Any: ...


def save_checkpoint(
    folder: Path,
    model: Savable,
    tokenizer: "PreTrainedTokenizerBase",
    lineage: Lineage,
    *,
    state_dict: "Mapping[str, Tensor] | None" = None,
) -> Path:
    """Write a whole checkpoint to `folder`, or nothing. Returns `folder`. `state_dict`: the weights, where they are
    not the model's own.

    Raises FileExistsError where `folder` is there already (a checkpoint is never changed), and OSError as
    the disk gives it (ENOSPC where it is full); the partial copy is removed then.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: a checkpoint is never overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid4().hex[:8]}.partial"
    try:
        partial.mkdir()
        model.save_pretrained(partial, state_dict=state_dict)
        tokenizer.save_pretrained(partial)
        (partial / LINEAGE_FILE).write_text(lineage.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _settle(partial)
        partial.rename(folder)  # refuses a folder that another writer put there meanwhile
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _fsync(folder.parent)
    return folder


def drop_partial(folder: Path) -> None:
    """Removes what writes of `folder` that died have left. For whoever alone writes it."""
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.partial"):
        shutil.rmtree(partial)


def read_lineage(folder: Path) -> Lineage | None:
    """The folder's lineage; None where it has none (a model that did not come through `save_checkpoint`).

    Raises ValueError where lineage.json is there and cannot be read as one.
    """
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return None
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a lineage ({error.error_count()} problems): {error}") from error


def checkpoint_id(folder: Path) -> str:
    """A short id that stays the same as long as the folder does; it goes out as `system_fingerprint`.

    Taken from lineage.json; elsewhere a digest of config.json and of the weight files' names and sizes
    (bytes): never of the weights themselves, which may be gigabytes.
    """
    lineage = read_lineage(folder)
    if lineage is not None:
        return lineage.id
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        digest.update(f"\n{path.name} {path.stat().st_size}".encode())
    return f"ckpt-{digest.hexdigest()[:12]}"


def checkpoint_name(folder: Path) -> str:
    """What the checkpoint is called: by its lineage, or else as its folder is."""
    lineage = read_lineage(folder)
    return lineage.name if lineage is not None else folder.resolve().name


def weight_files(folder: Path) -> list[Path]:
    """The folder's weight files, sorted by name: safetensors, or PyTorch's own where there are none."""
    for pattern in _WEIGHT_PATTERNS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def fault_in(folder: Path) -> str | None:
    """Why `folder` cannot be served, as a sentence; None where it is a whole causal language model."""
    if not folder.is_dir():
        return f"{folder} is not a folder."
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json: it is not a model in transformers' format."
    if not weight_files(folder):
        return f"{folder} has no weights (*.safetensors)."
    if missing := _missing_shards(folder):
        return f"{folder} lacks {len(missing)} of its weight files ({missing[0]}, ...): fetch the model again."
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return f"{folder} has no tokenizer (tokenizer.json)."
    if (folder / LINEAGE_FILE).is_file():
        return None  # written by `save_checkpoint`, from a causal LM: spare the import of transformers
    return _architecture_fault(folder / "config.json")


def _architecture_fault(config_path: Path) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = json.loads(config_path.read_bytes())
        model_type = config["model_type"]
        architectures = config.get("architectures") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{config_path} is damaged or names no model_type: fetch the model again."
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    named = architectures[0] if architectures else known
    if known is None:
        return f"{config_path}: transformers runs no causal language model of type {model_type!r}."
    if config.get("is_encoder_decoder") or named not in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        return f"{config_path}: {named or model_type} is no causal language model (it does not continue text)."
    if config.get("is_decoder") is False or (known == "BertLMHeadModel" and not config.get("is_decoder")):
        return f"{config_path}: {named} is an encoder, no causal language model."
    return None


def _missing_shards(folder: Path) -> list[str]:
    """Weight files that the index of a model in several files names and that are not there."""
    named: set[str] = set()
    for index in folder.glob(f"*{weight_files(folder)[0].suffix}.index.json"):
        try:
            named.update(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError):
            return [index.name]  # damaged: as good as not there
    return sorted(name for name in named if not (folder / name).is_file())


def _settle(folder: Path) -> None:
    """Make every file durable, and as readable as the umask allows (safetensors writes 0600)."""
    mode = (folder / LINEAGE_FILE).stat().st_mode & 0o777
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)
            _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
