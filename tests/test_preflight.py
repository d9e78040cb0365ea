"""What is refused before weights are loaded, each with a number just beyond the limit and one just within."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import save_tiny_policy, tiny_tokenizer
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from honed.training.configs import DPOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from honed.training.failures import TrainingError
from honed.training.loading import load_model, load_scalar
from honed.training.planning import preflight as checks
from honed.training.planning.architectures import require_known
from honed.training.planning.estimates import Shape, disk, memory
from honed.training.planning.lengths import Fitted, Length, Limits, fit
from honed.training.planning.machine import Machine
from honed.training.planning.preflight import (
    check_lengths,
    check_room,
    preflight,
    require_extra,
    require_judge,
    require_output,
    require_policy,
    require_reward_model,
    require_same_tokens,
    vocabulary_digest,
)

GIB = 2**30
MACHINE = Machine("cpu", number_bytes=4, tokens_per_pass=64, free_memory=GIB, free_disk=GIB)
SHAPE = Shape(
    parameters=1000, layers=2, hidden=8, intermediate=16, vocabulary=50, context_length=64, linear=((8, 8),) * 4
)


def stamped(folder: Path, stage: str) -> Path:
    """Writes this stage into a checkpoint's lineage."""
    path = folder / "lineage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stage": stage}))
    return folder


def rewritten(folder: Path, change: Callable[[Any], None]) -> Path:
    """Changes a checkpoint's tokenizer.json."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    path.write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return save_tiny_policy(tmp_path / "policy")


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    return stamped(save_tiny_policy(tmp_path / "judge"), "reward")


def refusal(check: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        check(*arguments, **named)
    return str(caught.value)


def test_a_run_that_can_work_has_no_notes(policy: Path, judge: Path) -> None:
    config = PPOConfig(max_tokens=128, max_new_tokens=16)
    lengths = [Length("a", 20), Length("b", 112)]
    assert preflight("ppo", config, lengths, policy=policy, reward_model=judge, machine=MACHINE) == []


def test_everything_is_looked_at(policy: Path, judge: Path) -> None:
    """Once each, through the one function that a run calls."""

    def refused(lengths: list[Length] | None = None, **given: Any) -> str:
        asked: dict[str, Any] = {"policy": policy, "reward_model": judge, "machine": MACHINE} | given
        return refusal(preflight, "ppo", PPOConfig(), [Length("a", 20)] if lengths is None else lengths, **asked)

    assert "reward model, which answers nothing" in refused(policy=judge)
    assert "no reward model" in refused(reward_model=policy)
    assert "no prompts to train on" in refused([])
    assert "Too little memory" in refused(machine=replace(MACHINE, free_memory=1000))
    assert "disk is too full" in refused(machine=replace(MACHINE, free_disk=1000))
    context = json.loads((judge / "config.json").read_text()) | {"max_position_embeddings": 70}
    (judge / "config.json").write_text(json.dumps(context))
    assert "the models read 70 tokens, and the shortest prompt has 20" in refused()  # and an answer 64
    rewritten(judge, lambda tokenizer: tokenizer["model"]["vocab"].update({"new": 268}))
    assert "other tokens" in refused()


def test_a_reward_model_that_would_choose_nothing_is_refused(policy: Path, judge: Path) -> None:
    asked: dict[str, Any] = {"policy": policy, "reward_model": judge, "machine": MACHINE}
    config = SFTConfig(reward_model="judge", max_tokens=64)
    lengths = [Length("a", 20, (3,))]
    assert "raise --validation" in refusal(preflight, "sft", config, lengths, None, **asked)
    assert preflight("sft", config, lengths, lengths, **asked) == []
    too_long = [Length("a", 33, (3,)), Length("b", 40, (3,))]
    said = refusal(preflight, "sft", config, lengths, too_long, **asked)
    assert "fit into the 64 tokens that the reward model reads" in said
    assert preflight("sft", config, lengths, [*too_long, Length("c", 32, (3,))], **asked) == []


# Names and settings of runs


@pytest.mark.parametrize(
    ("has_checkpoint", "has_run", "resume", "said"),
    [
        (False, False, False, None),
        (False, True, True, None),
        (False, False, True, "There is no run new to go on with"),
        (False, True, False, "--resume goes on with it"),
        (True, False, False, "There is a checkpoint new already"),
        (True, True, True, "There is a checkpoint new already"),
    ],
)
def test_a_name_is_free_or_that_of_a_run_to_go_on_with(
    has_checkpoint: bool, has_run: bool, resume: bool, said: str | None
) -> None:
    given = {"has_checkpoint": has_checkpoint, "has_run": has_run, "resume": resume}
    if said is None:
        require_output("new", **given)
    else:
        message = refusal(require_output, "new", **given)
        assert said in message
        assert "--output" in message


# What must be there


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (SFTConfig(), {"tensorboard", "matplotlib"}),
        (SFTConfig(lora=True), {"tensorboard", "matplotlib", "peft"}),
        (DPOConfig(), {"tensorboard", "matplotlib", "trl", "peft"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_missing_packages_are_named_with_the_extra(
    config: RunConfig, needed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_extra(config)
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    message = refusal(require_extra, config)
    assert message.endswith("pip install 'honed[train]'")
    assert {name for name in ("tensorboard", "matplotlib", "trl", "peft") if name in message} == needed


def test_ppo_needs_a_reward_model() -> None:
    assert "--reward-model" in refusal(require_reward_model, PPOConfig())
    require_reward_model(PPOConfig(reward_model="judge"))
    require_reward_model(SFTConfig())


def test_a_reward_model_is_no_policy_and_the_other_way_round(policy: Path, judge: Path) -> None:
    require_policy(policy)
    require_judge(judge)
    assert "name a policy with --model" in refusal(require_policy, judge)
    assert refusal(require_judge, stamped(policy, "sft")).startswith("policy is a checkpoint of the stage sft, and no")
    assert "made with --model" in refusal(require_judge, policy, option="--model")


def test_a_model_from_elsewhere_is_a_policy(policy: Path) -> None:
    (policy / "lineage.json").unlink()
    require_policy(policy)
    assert refusal(require_judge, policy).startswith("policy is a checkpoint from elsewhere, and no reward model")
    (policy / "lineage.json").write_text("[]")
    assert "lineage.json is damaged" in refusal(require_policy, policy)


# Tokens


def test_the_same_vocabulary_is_the_same_in_any_order(policy: Path, judge: Path) -> None:
    require_same_tokens(policy, judge)

    def reorder(tokenizer: Any) -> None:
        tokenizer["model"]["vocab"] = dict(reversed(tokenizer["model"]["vocab"].items()))

    require_same_tokens(policy, rewritten(judge, reorder))


@pytest.mark.parametrize("change", ["swapped", "added", "special"])
def test_another_token_at_an_id_is_another_vocabulary(policy: Path, judge: Path, change: str) -> None:
    def edit(tokenizer: Any) -> None:
        words = tokenizer["model"]["vocab"]
        if change == "swapped":
            words["a"], words["b"] = words["b"], words["a"]
        elif change == "added":
            words["new"] = len(words)
        else:
            tokenizer["added_tokens"][0]["content"] = "<|other|>"

    message = refusal(require_same_tokens, policy, rewritten(judge, edit))
    assert message.startswith("judge reads other tokens than policy writes: train the reward model from policy")


def test_vocabularies_of_other_files(tmp_path: Path) -> None:
    unigram = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]]}}
    as_dict = {"model": {"type": "BPE", "vocab": {"a": 1, "<unk>": 0}}, "added_tokens": []}
    digests = []
    for number, content in enumerate([json.dumps(unigram), json.dumps(as_dict)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(content)
        digests.append(vocabulary_digest(folder))
    assert digests[0] == digests[1]
    (tmp_path / "0" / "tokenizer.json").write_text("{")
    assert "tokenizer.json is damaged" in refusal(vocabulary_digest, tmp_path / "0")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.model").write_bytes(b"pieces")
    assert vocabulary_digest(tmp_path / "a") == vocabulary_digest(tmp_path / "b")
    (tmp_path / "b" / "tokenizer.model").write_bytes(b"others")
    assert vocabulary_digest(tmp_path / "a") != vocabulary_digest(tmp_path / "b")


def test_the_vocabulary_is_the_tokenizers(policy: Path) -> None:
    """Every id that the tokenizer can give is in what is compared."""
    tokenizer = json.loads((policy / "tokenizer.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == len(tiny_tokenizer())


# Lengths


def noted(lengths: list[Length], limit: Limits, *, is_context: bool = False, stage: Any = "sft") -> list[str]:
    return check_lengths(stage, fit(lengths, limit), limit, is_context=is_context)


def test_prompts_that_are_too_long_are_counted_and_the_first_is_named() -> None:
    fits, long, longer = Length("a", 9, (1,)), Length("b", 10, (1,)), Length("c", 30, (1,))
    assert noted([fits], Limits(10, 10)) == []
    assert noted([fits, long, longer], Limits(10, 10)) == [
        "2 of 3 demonstrations are left out, since --max-tokens is 10, and prompts may have 9: the first is b with 10."
    ]
    assert "since the model reads 10 tokens," in noted([fits, long], Limits(10, 10), is_context=True)[0]


def test_answers_that_are_cut_are_counted_and_the_first_is_named() -> None:
    lengths = [Length("a", 5, (5,)), Length("b", 5, (6, 2)), Length("c", 9, (9,))]
    assert noted(lengths, Limits(10, 10)) == [
        "2 of 3 demonstrations have answers that are cut (--max-tokens): the first is b with 5 + 6 tokens."
    ]
    assert "rankings have answers that are cut (--answer-tokens)" in noted(lengths, Limits(10, 2), stage="reward")[0]


def test_nothing_that_fits_is_refused() -> None:
    none = [Length("a", 30, (1,)), Length("b", 20, (1,))]
    assert refusal(noted, none, Limits(10, 10)) == (
        "None of the 2 demonstrations leaves room for an answer: --max-tokens is 10, and the shortest prompt has 20: "
        "raise it to 21 or more."
    )
    assert refusal(noted, none, Limits(10, 10), is_context=True).endswith("take a model with a longer context.")
    assert refusal(noted, none, Limits(10, 4, reserved=4), stage="ppo") == (
        "None of the 2 prompts leaves room for an answer: --max-tokens is 10, and the shortest prompt has 20: raise it "
        "to 24 or more, or lower --max-new-tokens (4)."
    )
    ppo = refusal(noted, none, Limits(25, 8, reserved=8), stage="ppo")
    assert ppo.endswith("raise it to 28 or more, or lower --max-new-tokens (8).")
    assert "no thumbs to train on" in refusal(check_lengths, "kto", Fitted((), (), ()), Limits(9, 9), is_context=False)


def test_held_out_texts_have_to_fit_too(policy: Path) -> None:
    config = SFTConfig(max_tokens=32)
    fits, long = Length("a", 8, (4,)), Length("b", 40, (4,))

    def looked_at(held_out: list[Length] | None) -> list[str]:
        return preflight("sft", config, [fits], held_out, policy=policy, reward_model=None, machine=MACHINE)

    assert looked_at([fits]) == looked_at(None) == []
    (note,) = looked_at([fits, long])
    assert note.startswith("1 of 2 held-out demonstrations are left out, since --max-tokens is 32")
    assert refusal(looked_at, [long]).endswith("raise it to 41 or more, or give --validation 0 to measure nothing.")
    assert refusal(looked_at, []).startswith("There are no held-out demonstrations to measure on")


# Architectures


def configured(folder: Path, **changes: Any) -> Path:
    """Changes a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_architecture_that_cannot_be_run_right_is_refused_by_its_config(policy: Path) -> None:
    require_known(policy)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    message = refusal(require_known, configured(policy, rope_parameters=rope))
    assert message.startswith("policy cannot be trained: LlamaForCausalLM uses rotary embeddings of type dynamic")
    (policy / "config.json").write_text('{"model_type": "nothing"}')
    assert refusal(require_known, policy).startswith("policy cannot be trained: ")


def test_an_architecture_without_packed_attention_is_refused_by_its_config(tmp_path: Path) -> None:
    """And by the model, where it is loaded all the same."""
    config = GPTNeoConfig(vocab_size=400, hidden_size=8, num_heads=1, num_layers=1, attention_types=[[["global"], 1]])
    config.save_pretrained(tmp_path)
    assert refusal(require_known, tmp_path).startswith("GPTNeoForCausalLM has an attention of its own")
    GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for load in (load_model, load_scalar):
        assert "has an attention of its own" in refusal(load, tmp_path, torch.float32, torch.device("cpu"))


# Memory and disk


def test_memory_that_is_surely_too_small_is_refused() -> None:
    config = SFTConfig()
    parts = memory(config, SHAPE, None, number_bytes=4, tokens_per_pass=64)
    least, all_ = sum(parts.values()) - parts["passes"], sum(parts.values())
    assert check_room(config, SHAPE, None, replace(MACHINE, free_memory=all_)) == []
    (note,) = check_room(config, SHAPE, None, replace(MACHINE, free_memory=all_ - 1))
    assert note.startswith("Memory may not suffice: a pass of 64 tokens")
    assert "--tokens-per-pass" in note
    assert len(check_room(config, SHAPE, None, replace(MACHINE, free_memory=least))) == 1
    message = refusal(check_room, config, SHAPE, None, replace(MACHINE, free_memory=least - 1))
    assert message.startswith("Too little memory: policy (0.0 GiB), copies of weights (0.0 GiB) need")
    assert "train adapters (--lora), take a smaller model" in message


def test_adapters_are_no_advice_to_who_has_them() -> None:
    config = SFTConfig(lora=True)
    assert "--lora" not in refusal(check_room, config, SHAPE, None, replace(MACHINE, free_memory=1))


def test_a_model_that_is_shared_out_needs_its_share() -> None:
    whole = memory(RewardConfig(), SHAPE, None, number_bytes=4, tokens_per_pass=64)["policy"]
    machine = replace(MACHINE, free_memory=whole // 2 + 1, ranks=2)
    check_room(RewardConfig(sharding="full"), SHAPE, None, machine)
    assert "Too little memory" in refusal(check_room, RewardConfig(), SHAPE, None, machine)


def test_a_disk_that_is_too_full_is_refused() -> None:
    written = sum(disk(SFTConfig(), SHAPE, None, number_bytes=4).values())
    assert check_room(SFTConfig(), SHAPE, None, replace(MACHINE, free_disk=written)) == []
    message = refusal(check_room, SFTConfig(), SHAPE, None, replace(MACHINE, free_disk=written - 1))
    assert message.startswith("The disk is too full: checkpoint (0.0 GiB), states (0.0 GiB) need")
    assert "HONED_HOME" in message
