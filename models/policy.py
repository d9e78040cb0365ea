"""A policy: a causal language model and its tokenizer, loaded and ready to run.

Owns reading a checkpoint folder into memory: number format, device, which tokens end an answer. Does not
own generation (`engine/`) nor fetching weights (`sources.py`).

Invariant: a `Policy` never changes after it is loaded; a new checkpoint is a new `Policy`.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from honed.models.checkpoint import checkpoint_id, checkpoint_name, fault_in, weight_files
from honed.models.scalar_head import is_scalar_model

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_UNBOUNDED = 10**9  # tokenizers without a limit carry 1e30

# While transformers builds a model it changes things of the whole process (torch's default dtype, its own classes) and
# puts back what it found: of two at once, the second would put back what the first had changed.
_BUILDING = threading.Lock()


class PolicyError(Exception):
    """A folder that cannot be loaded as a policy here; the message says what to do."""


@dataclass(frozen=True)
class Policy:
    """A loaded model. `eos_token_ids` end an answer; `context_length` is in tokens, prompt and answer.

    `vocab_size` is the width of the logits, which may exceed the tokenizer's vocabulary.
    """

    id: str
    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int
    eos_token_ids: frozenset[int]
    vocab_size: int


def load_policy(folder: Path, *, dtype: str = "auto", device: str = "auto", name: str | None = None) -> Policy:
    """Load a checkpoint folder.

    `dtype`: auto, bfloat16, float16 or float32; `device`: auto, cpu, cuda or cuda:N. `name` defaults to
    the lineage's name, else the folder's. Raises PolicyError.
    """
    if (fault := fault_in(folder)) is not None:
        raise PolicyError(f"{fault} Name a folder or a model that holds a causal language model.")
    if is_scalar_model(folder):
        raise PolicyError(f"{folder} is a reward model, which answers nothing: name a policy.")
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    identifier, name = checkpoint_id(folder), name or checkpoint_name(folder)
    tokenizer = load_tokenizer(folder)
    model = _load_model(folder, number, place)
    config = model.config.get_text_config()
    return Policy(
        id=identifier,
        name=name,
        model=model,
        tokenizer=tokenizer,
        context_length=_context_length(config, tokenizer),
        eos_token_ids=_eos_token_ids(model, tokenizer),
        vocab_size=config.vocab_size,
    )


def choose_device(name: str) -> torch.device:
    """The device that `name` means here; auto is CUDA where there is one. Raises PolicyError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PolicyError(f"There is no device {name!r}: choose auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise PolicyError(f"The device {name!r} is not supported: choose auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PolicyError(f"{name}: {torch.cuda.device_count()} CUDA devices are visible here: choose cpu or auto.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format that `name` means on `device`. Raises PolicyError.

    auto on the CPU is bfloat16 only where the CPU multiplies it natively: without that a bfloat16 matmul of
    16 rows takes five times as long as a float32 one.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if _cuda_has_bfloat16() else torch.float16
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  torch has no public name for it
        return torch.bfloat16 if native else torch.float32
    if name not in _DTYPES:
        raise PolicyError(f"There is no dtype {name!r}: choose auto, {', '.join(_DTYPES)}.")
    if name == "bfloat16" and device.type == "cuda" and not _cuda_has_bfloat16():
        raise PolicyError("This GPU has no bfloat16: choose auto or float16.")
    return _DTYPES[name]


def end_of_answer_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a model is taught to end its answers with: what the chat template puts after them, else EOS.

    Raises PolicyError where the tokenizer has neither.
    """
    named = min(_end_of_turn_ids(tokenizer), default=tokenizer.eos_token_id)
    if not isinstance(named, int):
        raise PolicyError("The tokenizer names no end-of-sequence token: set eos_token in its tokenizer_config.json.")
    return named


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Raises PolicyError."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file surfaces as whatever its parser raises
        raise PolicyError(f"The tokenizer in {folder} cannot be read: fetch the model again. ({error})") from error
    return tokenizer


def _load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    try:
        with _BUILDING:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        model: PreTrainedModel = loaded[0].to(device)
    except SafetensorError as error:
        raise PolicyError(f"The weights in {folder} are damaged: fetch the model again. ({error})") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        size_mb = sum(path.stat().st_size for path in weight_files(folder)) / 1e6
        raise PolicyError(
            f"Too little memory on {device} for {folder} ({size_mb:.0f} MB of weights): "
            "choose a smaller model, a smaller dtype or another device."
        ) from error
    if missing := loaded[1]["missing_keys"]:  # transformers would go on with random numbers in their place
        raise PolicyError(f"The weights in {folder} lack {len(missing)} tensors of the model: fetch the model again.")
    model.train(False)
    return model


def _context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    length = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if not 0 < length < _UNBOUNDED:
        raise PolicyError("The model names no context length: set max_position_embeddings in its config.json.")
    return int(length)


def _eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Only ids that the model can say: a tokenizer may have been extended without its embeddings."""
    ids: set[int] = set()
    for holder in (model.generation_config, model.config.get_text_config(), tokenizer):
        named = getattr(holder, "eos_token_id", None)
        ids.update([named] if isinstance(named, int) else named or [])
    size = model.config.get_text_config().vocab_size
    return frozenset(i for i in ids | _end_of_turn_ids(tokenizer) if 0 <= i < size)


def _end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special token that the chat template puts right after an answer, if any."""
    if not tokenizer.chat_template:
        return set()
    answer = "0answer0"
    messages = [{"role": "user", "content": "0question0"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        return set()  # a template that refuses this conversation names no end of turn
    _, found, after = str(text).rpartition(answer)
    ids = tokenizer.encode(after, add_special_tokens=False) if found else []
    return set(ids[:1]) & set(tokenizer.all_special_ids)
