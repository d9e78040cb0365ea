"""DPO (Rafailov et al. 2023, arXiv:2305.18290) and KTO (Ethayarajh et al. 2024, arXiv:2402.01306), by TRL's trainers.

Owns how TRL is set up, how a batch is shared out to passes, and which state a run goes on from. Does not own the losses
(TRL's `sigmoid` and `kto`), the rows (`preference_rows.py`), nor writing the checkpoint and the metrics.

Invariants: a run that was cut off and goes on ends with the weights of one that was not; the model and the tokenizer
that come back are those of the folder but for the weights.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import datasets
import torch
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.utils import logging as transformers_logging
from trl.trainer.dpo_config import DPOConfig as DPOArguments
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig as KTOArguments
from trl.trainer.kto_trainer import KTOTrainer

from honed.models.policy import Policy, choose_device, choose_dtype, load_policy
from honed.training.configs import DPOConfig, KTOConfig
from honed.training.data.datasets import Dataset
from honed.training.data.splits import Split
from honed.training.failures import TrainingError
from honed.training.planning.preference_checks import share_of
from honed.training.preference_rows import Row, balanced_weights, padded_tokens, rows_of, with_other_answers
from honed.training.run import TOKENS_PER_PASS, Trained
from honed.training.states import TRAINER_FOLDER

Log: TypeAlias = Callable[[int, int, Mapping[str, float]], None]

_NAMES: Final = {
    "loss": "train/loss",
    "rewards/accuracies": "train/accuracy",
    "rewards/margins": "train/margin",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "eval_loss": "validation/loss",
    "eval_rewards/accuracies": "validation/accuracy",
    "eval_rewards/margins": "validation/margin",
}
_SPLITS: Final[tuple[Split, ...]] = ("train", "validation")
_FEW_THUMBS: Final = 4  # KTO's reference point, taken from the other answers of a pass, is mostly noise of fewer


def train_preferences(
    config: DPOConfig | KTOConfig, dataset: Dataset, policy_folder: Path, run_folder: Path, *, log: Log, resume: bool
) -> Trained:
    """Trains the policy of `policy_folder` and keeps the states to go on from in `run_folder`/trainer.

    `log` is called on the first rank with the step, from 1, the tokens read until then, and the step's metrics; at the
    end of an epoch once more with those of the validation split. With `resume` the run goes on from its last whole
    state, else from the beginning. The settings and data are as `check_preferences` wants them. Raises TrainingError,
    and PolicyError for a model that cannot be loaded.
    """
    device = choose_device(config.device)
    with _quiet():
        policy = load_policy(policy_folder, dtype="float32", device="cpu")
        limit = min(config.max_tokens, policy.context_length)
        train, validation = (rows_of(config, dataset.of(split), policy.tokenizer, limit) for split in _SPLITS)
        size, accumulation = _passes(config, [*train, *validation], device)
        settings = _settings(config, device, size, accumulation) | {
            "output_dir": str(run_folder / TRAINER_FOLDER),
            "eval_strategy": "epoch" if validation else "no",
            "max_length": limit,  # of KTO's mixed pairs: all else is cut to it already
        }
        if isinstance(config, KTOConfig):
            settings |= balanced_weights(train)
        tables = [_table(config, rows, size) if rows else None for rows in (train, validation)]
        trainer = _trainer(config, policy, policy_folder, settings, tables, _Reporter(log))
        state = _state_to_go_on_from(run_folder, resume=resume)
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
        if validation and not _is_measured(trainer.state):
            trainer.evaluate()
        model = _clean_copy(trainer, policy_folder)
    return Trained(model, None, policy.tokenizer, _last_metrics(trainer.state))


def last_step(run_folder: Path) -> int:
    """The step of the state that a run with `resume` would go on from; 0 where it would begin anew."""
    return max(map(_step, _whole_states(run_folder / TRAINER_FOLDER)), default=0)


def _passes(config: DPOConfig | KTOConfig, rows: list[Row], device: torch.device) -> tuple[int, int]:
    """How many rows a rank takes at once, and how many times a step."""
    share = share_of(config)
    least = 1 if isinstance(config, DPOConfig) else min(share, _FEW_THUMBS)
    budget = config.tokens_per_pass or TOKENS_PER_PASS[device.type]
    longest = max(map(padded_tokens, rows))
    sizes = [size for size in range(least, share + 1) if share % size == 0]
    size = max([size for size in sizes if size * longest <= budget], default=sizes[0])
    return size, share // size


def _table(config: DPOConfig | KTOConfig, rows: list[Row], size: int) -> datasets.Dataset:
    if isinstance(config, KTOConfig):
        # TRL takes thumbs in the order that they have, in every epoch, because it pairs the answers of a pass.
        random.Random(config.seed).shuffle(rows)  # noqa: S311  not for secrets
        rows = list(with_other_answers(rows, size))
    return datasets.Dataset.from_list(rows)


def _settings(config: DPOConfig | KTOConfig, device: torch.device, size: int, accumulation: int) -> dict[str, Any]:
    """TRL's settings. Its own defaults would report to the services that it finds, and compute in bfloat16."""
    return {
        "per_device_train_batch_size": size,
        "per_device_eval_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": config.epochs,
        "beta": config.beta,
        "learning_rate": config.learning_rate,
        # Its twin without `warmup` in its name would spend the first step at a rate of 0.
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": config.final_learning_rate},
        "warmup_steps": config.warmup,  # below 1: a share
        "adam_beta2": 0.95,  # as in every other stage
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "bf16": choose_dtype(config.dtype, device) is torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "ddp_find_unused_parameters": False,
        "disable_dropout": True,
        "activation_checkpointing": False,  # passes are small
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
    }


class _Encoded:
    """What is different in both trainers: rows are token ids already, nothing is sent anywhere, and a state of training
    has no page that describes it as a model."""

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: object) -> datasets.Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: object, **__: object) -> None:
        pass


class _DPOTrainer(_Encoded, DPOTrainer):
    pass


class _KTOTrainer(_Encoded, KTOTrainer):
    pass


class _Reporter(TrainerCallback):
    def __init__(self, log: Log) -> None:
        self._log = log

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002  its interface
        logs: Mapping[str, float] = kwargs["logs"]
        if not math.isfinite(logs.get("loss", 0.0)):
            raise TrainingError(f"The loss of step {state.global_step} is not a number: set a lower learning_rate.")
        if (metrics := _named(logs)) and state.is_world_process_zero:
            self._log(state.global_step, int(state.num_input_tokens_seen), metrics)


def _named(logs: Mapping[str, float]) -> dict[str, float]:
    return {name: float(logs[theirs]) for theirs, name in _NAMES.items() if theirs in logs}


def _is_measured(state: TrainerState) -> bool:
    """Whether the last weights were: a run that goes on from the state of its last step has no epoch to end."""
    return any("eval_loss" in logs and logs["step"] == state.global_step for logs in state.log_history)


def _last_metrics(state: TrainerState) -> dict[str, float]:
    return {name: value for logs in state.log_history for name, value in _named(logs).items()}


def _trainer(
    config: DPOConfig | KTOConfig,
    policy: Policy,
    folder: Path,
    settings: Mapping[str, Any],
    tables: Sequence[datasets.Dataset | None],
    reporter: _Reporter,
) -> Any:
    _turn_off_attention_dropout(policy.model)
    # Without adapters the policy at its start has to be kept beside it; with them it is the policy without adapters.
    alpha: Any = config.lora_alpha  # peft takes any number, whatever it is annotated with
    adapters = LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules="all-linear")
    reference = None if config.lora else load_policy(folder, dtype="float32", device="cpu").model
    is_dpo = isinstance(config, DPOConfig)
    arguments: Any = DPOArguments(**settings) if is_dpo else KTOArguments(**settings)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001  else one process takes all GPUs, which TRL refuses
    trainer_class: Any = _DPOTrainer if is_dpo else _KTOTrainer
    trainer = trainer_class(
        model=policy.model,
        ref_model=reference,
        args=arguments,
        train_dataset=tables[0],
        eval_dataset=tables[1],
        processing_class=_padding_tokenizer(policy),
        callbacks=[reporter],
        peft_config=adapters if config.lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _turn_off_attention_dropout(model: PreTrainedModel) -> None:
    """TRL turns off the layers of dropout alone; most attention takes it as a number."""
    module: Any
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and its warnings on what is done here on purpose."""
    had_bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # TRL 1.16 and peft 0.21 ask transformers 5.23 by a name that is going to be another.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def _padding_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer that does not pad with a token that ends answers, and has no new token."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    candidates: Iterable[int | None] = (tokenizer.pad_token_id, *tokenizer.all_special_ids, *range(policy.vocab_size))
    usable = set(range(min(policy.vocab_size, len(tokenizer)))) - policy.eos_token_ids
    chosen = next(each for each in candidates if each in usable)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)
    return tokenizer


def _clean_copy(trainer: Any, folder: Path) -> PreTrainedModel:
    """The trained weights in the model of `folder`: the one that was trained has other configs, and TRL's forward. On
    the CPU: where it was trained, there need be no room for another."""
    trained = trainer.accelerator.unwrap_model(trainer.model)
    weights = (trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained).state_dict()
    model = load_policy(folder, dtype="float32", device="cpu").model
    model.load_state_dict(weights)
    return model


def _state_to_go_on_from(run_folder: Path, *, resume: bool) -> Path | None:
    """The last whole state. What else is there is removed: a later state of the same number must not mix with it."""
    folder = run_folder / TRAINER_FOLDER
    whole = _whole_states(folder) if resume else []
    if int(os.environ.get("RANK", "0")) == 0:
        for other in set(folder.glob("*")) - set(whole):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return max(whole, key=_step, default=None)


def _whole_states(folder: Path) -> list[Path]:
    return [state for state in folder.glob("checkpoint-*") if state.is_dir() and _is_whole(state)]


def _is_whole(state: Path) -> bool:
    """The Trainer writes trainer_state.json last, after the weights, the optimizer's state and the random ones."""
    weights = list(state.glob("*.safetensors"))
    if not weights or not all((state / name).is_file() for name in ("optimizer.pt", "scheduler.pt")):
        return False
    try:
        return bool(json.loads((state / "trainer_state.json").read_bytes())["global_step"] == _step(state))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _step(state: Path) -> int:
    return int(state.name.rpartition("-")[2])
