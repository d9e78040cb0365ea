"""DPO and KTO on tiny models: what TRL is given, that it learns, that it goes on exactly, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import save_tiny_policy, tiny_tokenizer

from honed.models.chat import render_chat
from honed.models.checkpoint import Lineage, new_checkpoint_id, save_checkpoint
from honed.models.policy import load_policy
from honed.server.store.exchange.records import Answer, Ranking, Record, Thumb, message, text_prompt
from honed.training import preferences
from honed.training.configs import DPOConfig, KTOConfig
from honed.training.data.datasets import Dataset, Example
from honed.training.data.splits import Split
from honed.training.encoding import Encoder
from honed.training.failures import TrainingError
from honed.training.planning import preference_checks
from honed.training.planning.preference_checks import check_preferences
from honed.training.preference_rows import balanced_weights, pairs, thumbs, with_other_answers
from honed.training.preferences import Trained, last_step, train_preferences

END = 2  # <|im_end|>
FAST: dict[str, Any] = {"learning_rate": 3e-3, "dtype": "float32", "device": "cpu", "tokens_per_pass": 120}
PAIRS = [
    Ranking((message("user", f"question {i}"),), (Answer("good", 1), Answer("not so good" if i % 2 else "bad", 2)))
    for i in range(8)
]
THUMBS = [Thumb((message("user", f"question {i}"),), "bad" if i % 4 else "good", not i % 4) for i in range(16)]


def examples(train: Sequence[Record], validation: Sequence[Record] = ()) -> Dataset:
    splits: list[tuple[Split, Sequence[Record]]] = [("train", train), ("validation", validation)]
    all_of_them = [
        Example(record, split, completion_id=None, feedback_id=None, user=None, labeler=None, category="")
        for split, records in splits
        for record in records
    ]
    card: Any = None  # nothing here reads it
    return Dataset("data-000000000000", "dpo", tuple(all_of_them), card)


class CutError(Exception):
    """In the place of a killed process."""


class Log:
    """Keeps what is logged, and with `cut_at` cuts the run off at that step."""

    def __init__(self, cut_at: int = 0) -> None:
        self.lines: list[tuple[int, int, dict[str, float]]] = []
        self._cut_at = cut_at

    def __call__(self, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        self.lines.append((step, tokens, dict(metrics)))
        if step == self._cut_at:
            raise CutError


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy") / "tiny", attention_dropout=0.5)


def train(
    config: DPOConfig | KTOConfig,
    data: Dataset,
    folder: Path,
    run: Path,
    log: Log | None = None,
    *,
    resume: bool = False,
) -> Trained:
    return train_preferences(config, data, folder, run, log=log or Log(), resume=resume)


def dpo(**settings: Any) -> DPOConfig:
    return DPOConfig(**FAST | {"batch_size": 4, "epochs": 3, "save_every": 2} | settings)


def kto(**settings: Any) -> KTOConfig:
    return KTOConfig(**FAST | {"batch_size": 8, "epochs": 3, "save_every": 2} | settings)


def encoder(max_tokens: int = 100) -> Encoder:
    return Encoder(tiny_tokenizer(), max_tokens, max_tokens)


def log_probability(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> float:
    """Of the answer, by a plain forward pass."""
    ids = torch.tensor([prompt_ids + answer_ids], device=model.device)
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)[0, len(prompt_ids) - 1 : -1]
    return float(logprobs.gather(1, ids[0, len(prompt_ids) :, None]).sum())


def state_of(trained: Trained) -> dict[str, torch.Tensor]:
    return dict(trained.model.state_dict())


def assert_same_weights(one: Trained, other: Trained) -> None:
    for (name, tensor), same in zip(state_of(one).items(), state_of(other).values(), strict=True):
        assert torch.equal(tensor, same), name


# What TRL is given


def test_a_ranking_gives_all_pairs_without_ties_with_the_servers_ids() -> None:
    prompt = (message("system", "Be brief."), message("user", "Which?"))
    ranking = Ranking(prompt, (Answer("c", 3), Answer("a", 1), Answer("b", 2), Answer("bb", 2)))
    rows = list(pairs(ranking, encoder()))
    tokenizer = tiny_tokenizer()
    assert [(tokenizer.decode(row["chosen_ids"]), tokenizer.decode(row["rejected_ids"])) for row in rows] == [
        (f"{better}<|im_end|>", f"{worse}<|im_end|>")
        for better, worse in [("a", "b"), ("a", "bb"), ("a", "c"), ("b", "c"), ("bb", "c")]
    ]
    assert {tuple(row["prompt_ids"]) for row in rows} == {tuple(render_chat(tokenizer, prompt))}


def test_a_text_prompt_is_left_as_it_is() -> None:
    (row,) = thumbs(Thumb(text_prompt("Once upon"), " a time", label=True), encoder())
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(row["prompt_ids"]) == "Once upon"
    assert tokenizer.decode(row["completion_ids"]) == " a time<|im_end|>"
    assert row["label"] is True


def test_what_does_not_fit_is_cut_or_left_out() -> None:
    prompt = (message("user", "?"),)
    length = len(render_chat(tiny_tokenizer(), prompt))
    ranking = Ranking(prompt, (Answer("xy", 1), Answer("xz", 2)))
    (row,) = pairs(ranking, encoder(length + 2))
    assert END not in row["chosen_ids"] + row["rejected_ids"], "an answer that was cut does not end"
    assert not list(pairs(ranking, encoder(length + 1))), "what is left of the answers is the same"
    assert not list(pairs(ranking, encoder(length)))
    assert not list(thumbs(Thumb(prompt, "x", label=True), encoder(length)))


@pytest.mark.parametrize(
    ("good", "bad", "desirable", "undesirable"),
    [(5, 5, 1, 1), (4, 3, 1, 1), (1, 10, 10, 1), (8, 2, 1, 3)],
)
def test_ktos_weights_are_in_the_papers_range(good: int, bad: int, desirable: float, undesirable: float) -> None:
    """Equation 8: the weighted ratio is between 1 and 4/3."""
    weights = balanced_weights([{"label": True}] * good + [{"label": False}] * bad)
    assert weights == pytest.approx({"desirable_weight": desirable, "undesirable_weight": undesirable})
    ratio = weights["desirable_weight"] * good / (weights["undesirable_weight"] * bad)
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9


def test_each_thumb_of_a_pass_gets_the_answer_of_another() -> None:
    rows = [{"completion_ids": [i]} for i in range(7)]
    others = [row["KL_completion_ids"][0] for row in with_other_answers(rows, 3)]
    assert others == [2, 0, 1, 5, 3, 4, 5]  # the last is alone in its pass


@pytest.mark.parametrize(
    ("config", "ranks", "tokens", "expected"),
    [
        (dpo(batch_size=8, tokens_per_pass=100), 1, 10, (4, 2)),  # a pair counts twice
        (dpo(batch_size=6, tokens_per_pass=100), 1, 10, (3, 2)),
        (dpo(batch_size=8, tokens_per_pass=100), 4, 10, (2, 1)),
        (dpo(batch_size=8, tokens_per_pass=0), 1, 400, (1, 8)),  # as small as it gets
        (kto(batch_size=8, tokens_per_pass=100), 1, 10, (8, 1)),
        (kto(batch_size=12, tokens_per_pass=1), 1, 10, (4, 3)),  # not so few that there is no divergence to see
        (kto(batch_size=10, tokens_per_pass=1), 1, 10, (5, 2)),
    ],
)
def test_a_batch_is_shared_out_to_ranks_and_passes(
    config: Any, ranks: int, tokens: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    answer = [0] * (tokens - 1)
    answers = {"chosen_ids": answer, "rejected_ids": [0]} if isinstance(config, DPOConfig) else {"label": True}
    row = {"prompt_ids": [0], "completion_ids": answer} | answers
    assert preferences._passes(config, [row], torch.device("cpu")) == expected


def test_trl_trains_on_the_prompt_the_answer_and_its_end(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into the model is what the server renders, and the loss is on the answer with its end alone."""
    seen: list[dict[str, Any]] = []

    def look(_trainer: object, _model: object, inputs: dict[str, Any], _return_outputs: object) -> None:
        seen.append(inputs)
        raise CutError

    monkeypatch.setattr(preferences._DPOTrainer, "_compute_loss", look)
    with pytest.raises(CutError):
        train(dpo(batch_size=1), examples([PAIRS[1]]), policy_folder, tmp_path)
    (batch,) = seen
    tokenizer, eos = tiny_tokenizer(), load_policy(policy_folder).eos_token_ids
    prompt = render_chat(tokenizer, PAIRS[1].prompt)
    for position, answer in enumerate(("good", "not so good")):
        read = batch["attention_mask"][position].bool()
        judged = batch["completion_mask"][position].bool()
        assert batch["input_ids"][position][read].tolist() == [*prompt, *tokenizer.encode(answer), END]
        assert batch["input_ids"][position][judged].tolist() == [*tokenizer.encode(answer), END]
        assert not eos & set(batch["input_ids"][position][~read].tolist())
    assert END in eos
    assert not batch["attention_mask"].all(), "one of them is padded"


def test_padding_is_no_end_even_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "tiny")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<|im_end|>"}))
    policy = load_policy(folder)
    assert policy.tokenizer.pad_token_id in policy.eos_token_ids
    padding = preferences._padding_tokenizer(policy)
    assert padding.pad_token_id is not None
    assert padding.pad_token_id not in policy.eos_token_ids
    assert len(padding) == len(policy.tokenizer)
    trained = train(dpo(epochs=1), examples(PAIRS), folder, tmp_path / "run")
    assert trained.tokenizer.pad_token == "<|im_end|>", "the tokenizer that is saved is as it was"
    assert trained.model.config.pad_token_id == policy.model.config.pad_token_id


# Learning


def test_dpo_makes_the_better_answer_likelier(policy_folder: Path, tmp_path: Path) -> None:
    log = Log()
    trained = train(dpo(), examples(PAIRS, PAIRS[:3]), policy_folder, tmp_path / "run", log)
    start = load_policy(policy_folder, dtype="float32").model
    rows = [row for ranking in PAIRS for row in pairs(ranking, encoder())]
    for row in rows:
        chosen, rejected = (
            log_probability(trained.model, row["prompt_ids"], row[which])
            - log_probability(start, row["prompt_ids"], row[which])
            for which in ("chosen_ids", "rejected_ids")
        )
        assert chosen > rejected
    training = [metrics for _, _, metrics in log.lines if "train/loss" in metrics]
    assert len(training) == 6  # 8 pairs, 4 a step, 3 times
    assert training[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6), "dropout is off: all ratios are 1"
    assert training[0]["train/margin"] == 0
    assert training[-1]["train/accuracy"] == 1
    assert training[-1]["train/learning_rate"] == pytest.approx(3e-4), "a tenth of the peak"
    assert max(each["train/learning_rate"] for each in training) == pytest.approx(3e-3)
    assert training[0]["train/grad_norm"] > 0
    assert trained.metrics["validation/accuracy"] == 1
    assert trained.metrics["train/loss"] == training[-1]["train/loss"]
    assert [step for step, _, metrics in log.lines if "validation/loss" in metrics] == [2, 4, 6]
    tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    assert log.lines[-1][1] == 3 * tokens
    assert trained.stopped is None


def test_what_comes_back_can_be_saved_and_served(policy_folder: Path, tmp_path: Path) -> None:
    trained = train(dpo(epochs=1), examples(PAIRS), policy_folder, tmp_path / "run")
    lineage = Lineage(id=new_checkpoint_id(), name="better", stage="source", source="dpo", created=datetime.now(UTC))
    saved = save_checkpoint(tmp_path / "better", trained.model, trained.tokenizer, lineage)
    policy = load_policy(saved, dtype="float32", device="cpu")
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(tensor, state_of(trained)[name]), name
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (policy_folder, saved))
    assert before == after
    assert (saved / "tokenizer.json").read_text() == (policy_folder / "tokenizer.json").read_text()


@pytest.mark.parametrize("lora", [False, True])
def test_kto_makes_good_answers_likelier_and_bad_ones_less(policy_folder: Path, tmp_path: Path, lora: bool) -> None:
    log = Log()
    config = kto(lora=lora, learning_rate=1e-2 if lora else 3e-3)
    trained = train(config, examples(THUMBS, THUMBS[:5]), policy_folder, tmp_path, log)
    start = load_policy(policy_folder, dtype="float32").model
    assert state_of(trained).keys() == start.state_dict().keys()
    for thumb in THUMBS:
        (row,) = thumbs(thumb, encoder())
        ids = row["prompt_ids"], row["completion_ids"]
        change = log_probability(trained.model, *ids) - log_probability(start, *ids)
        assert change > 0 if thumb.label else change < 0
    # 4 good thumbs that weigh 3, 12 bad ones, and each is worth a half of its weight.
    first = [metrics["train/loss"] for _, _, metrics in log.lines if "train/loss" in metrics][:2]
    assert sum(first) / 2 == pytest.approx((4 * 3 + 12) / 16 / 2, abs=0.2)
    assert trained.metrics["train/margin"] > 0.5
    assert {"validation/loss", "validation/margin"} <= trained.metrics.keys()


def test_bfloat16_leaves_the_weights_in_float32(policy_folder: Path, tmp_path: Path) -> None:
    log = Log()
    trained = train(dpo(epochs=1, dtype="bfloat16"), examples(PAIRS), policy_folder, tmp_path, log)
    assert log.lines[0][2]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    for name, tensor in trained.model.named_parameters():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, tensor.bfloat16().float()), name


# Going on


@pytest.mark.parametrize(
    ("config", "data"),
    [(dpo(), examples(PAIRS, PAIRS[:2])), (dpo(lora=True), examples(PAIRS)), (kto(), examples(THUMBS, THUMBS[:4]))],
    ids=["dpo", "dpo-lora", "kto"],
)
def test_a_run_that_was_cut_off_ends_as_one_left_alone(
    policy_folder: Path, tmp_path: Path, config: Any, data: Dataset
) -> None:
    alone, again = Log(), Log()
    expected = train(config, data, policy_folder, tmp_path / "alone", alone)
    run = tmp_path / "run"
    with pytest.raises(CutError):
        train(config, data, policy_folder, run, Log(cut_at=5))
    assert last_step(run) == 4
    half_written(run / "trainer" / "checkpoint-4", run / "trainer" / "checkpoint-5")
    assert last_step(run) == 4
    resumed = train(config, data, policy_folder, run, again, resume=True)
    assert again.lines == [line for line in alone.lines if line[0] > 4]
    assert_same_weights(resumed, expected)
    assert resumed.metrics == expected.metrics
    assert last_step(run) == 6


def test_a_run_that_was_cut_off_before_its_last_measurement_has_it_too(policy_folder: Path, tmp_path: Path) -> None:
    """TRL's state of the last step is there before what is measured after it."""
    data, lines = examples(PAIRS, PAIRS[:2]), Log()
    expected = train(dpo(), data, policy_folder, tmp_path / "alone", lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences._DPOTrainer, "evaluate", _cut_at_the_end(preferences._DPOTrainer.evaluate))
        with pytest.raises(CutError):
            train(dpo(), data, policy_folder, tmp_path / "run")
    assert last_step(tmp_path / "run") == 6
    again = Log()
    resumed = train(dpo(), data, policy_folder, tmp_path / "run", again, resume=True)
    assert_same_weights(resumed, expected)
    assert resumed.metrics == expected.metrics
    assert again.lines == lines.lines[-1:]


def _cut_at_the_end(evaluate: Any) -> Any:
    def cut(trainer: Any, *arguments: Any, **named: Any) -> Any:
        if trainer.state.global_step == trainer.state.max_steps:
            raise CutError
        return evaluate(trainer, *arguments, **named)

    return cut


def half_written(state: Path, other: Path) -> None:
    """A state whose writing was cut off before the last file was whole."""
    shutil.copytree(state, other)
    text = (other / "trainer_state.json").read_text()
    (other / "trainer_state.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
def test_a_state_that_lacks_a_file_is_not_gone_on_from(policy_folder: Path, tmp_path: Path, name: str) -> None:
    train(dpo(epochs=1, save_every=1), examples(PAIRS), policy_folder, tmp_path)
    assert last_step(tmp_path) == 2
    (tmp_path / "trainer" / "checkpoint-2" / name).unlink()
    assert last_step(tmp_path) == 1


def test_a_run_from_the_beginning_forgets_the_states_of_another(policy_folder: Path, tmp_path: Path) -> None:
    train(dpo(), examples(PAIRS), policy_folder, tmp_path)
    first = train(dpo(epochs=1), examples(PAIRS), policy_folder, tmp_path)
    assert last_step(tmp_path) == 2
    elsewhere = train(dpo(epochs=1), examples(PAIRS), policy_folder, tmp_path / "new", resume=True)
    assert_same_weights(first, elsewhere)  # there was nothing to go on from


def test_the_seed_decides(policy_folder: Path, tmp_path: Path) -> None:
    one, other = (
        train(kto(epochs=1, seed=seed), examples(THUMBS), policy_folder, tmp_path / str(seed)) for seed in (0, 1)
    )
    assert any(not torch.equal(state_of(one)[name], tensor) for name, tensor in state_of(other).items())


# What is refused


@pytest.mark.parametrize(
    ("config", "records", "ranks", "message"),
    [
        (kto(), [thumb for thumb in THUMBS if thumb.label], 1, "All thumbs are up"),
        (kto(), [thumb for thumb in THUMBS if not thumb.label], 1, "All thumbs are down"),
        (kto(), [], 1, "no judged answer"),
        (dpo(max_tokens=5), PAIRS, 1, "no pair of different answers of up to 5 tokens"),
        (dpo(sharding="full"), PAIRS, 1, "set sharding to none"),
        (dpo(batch_size=4), PAIRS, 3, "batch_size 4 must be a multiple of the number of ranks, 3"),
        (kto(batch_size=4), THUMBS, 4, "set batch_size to 8 or more"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    config: Any,
    records: list[Record],
    ranks: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(TrainingError, match=message):
        check_preferences(config, examples(records).of("train"), tiny_tokenizer(), config.max_tokens)


def test_the_weights_come_back_on_the_cpu(policy_folder: Path) -> None:
    """Not on the GPU, of which there is none here: two models may not fit on it."""
    trained = load_policy(policy_folder, dtype="float32", device="cpu").model
    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    trainer = SimpleNamespace(model=trained, accelerator=accelerator, args=SimpleNamespace(device="cuda:7"))
    assert preferences._clean_copy(trainer, policy_folder).device.type == "cpu"


def test_a_gpu_that_the_trainer_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preference_checks, "choose_device", torch.device)
    with pytest.raises(TrainingError, match="set CUDA_VISIBLE_DEVICES=1 and device to cuda"):
        check_preferences(dpo(device="cuda:1"), examples(PAIRS).of("train"), tiny_tokenizer(), 100)


def test_a_loss_that_is_no_number_ends_the_run(policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="set a lower learning_rate"):
        train(dpo(learning_rate=1e30), examples(PAIRS), policy_folder, tmp_path)
