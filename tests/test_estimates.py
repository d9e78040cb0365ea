"""Steps, arithmetic, memory and disk by hand, and sizes of models from the files of real ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, save_tiny_policy, tiny_model
from safetensors.torch import load_file, save_file

from honed.training.configs import DPOConfig, KTOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from honed.training.failures import TrainingError
from honed.training.planning.estimates import (
    SAMPLING_EFFICIENCY,
    TRAINING_EFFICIENCY,
    Shape,
    Work,
    adapter_parameters,
    context_length,
    disk,
    memory,
    read_shape,
    seconds,
    work,
)
from honed.training.planning.lengths import Length
from honed.training.trees import Tree, pack

POLICY = Shape(
    parameters=1000, layers=2, hidden=8, intermediate=16, vocabulary=50, context_length=64, linear=((8, 16), (16, 8))
)
JUDGE = Shape(parameters=400, layers=1, hidden=4, intermediate=8, vocabulary=50, context_length=64, linear=((4, 8),))
LENGTHS = [Length("a", 10, (5,)), Length("b", 20, (5,)), Length("c", 30, (10,))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_those_of_the_model(architecture: Architecture, tmp_path: Path) -> None:
    shape = read_shape(save_tiny_policy(tmp_path / "model", architecture))
    model = tiny_model(architecture)
    config = model.config
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.layers == config.num_hidden_layers
    assert shape.hidden == config.hidden_size
    assert shape.vocabulary == config.vocab_size
    assert shape.context_length == config.max_position_embeddings
    assert shape.intermediate == (128 if architecture == "gpt2" else 64)


def test_weights_that_are_tied_count_once(tmp_path: Path) -> None:
    apart = read_shape(save_tiny_policy(tmp_path / "apart", tie_word_embeddings=False))
    tied = read_shape(save_tiny_policy(tmp_path / "tied", tie_word_embeddings=True))
    assert apart.parameters - tied.parameters == 268 * 32


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    whole = read_shape(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / f"model-{number}.safetensors")
    (folder / "model.safetensors").unlink()
    assert read_shape(folder).parameters == whole.parameters
    assert sorted(read_shape(folder).linear) == sorted(whole.linear)


def test_a_file_without_a_header_counts_by_its_size(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bytes(4000))
    assert read_shape(folder).parameters == 1000
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert read_shape(folder).parameters == 2000


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]"], ids=["empty", "huge", "no object"])
def test_a_file_that_is_no_model_is_said_so(content: bytes, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match="cannot be read: fetch it again"):
        read_shape(folder)


def test_a_config_without_sizes_is_said_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model")
    (folder / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="hidden_size"):
        read_shape(folder)


def test_adapters_are_those_that_peft_makes(tmp_path: Path) -> None:
    from honed.training.adapters import add_adapters

    model = tiny_model()
    add_adapters(model, rank=4, alpha=8, seed=0)
    made = sum(each.numel() for name, each in model.named_parameters() if ".lora_" in name)
    assert adapter_parameters(read_shape(save_tiny_policy(tmp_path / "model")), 4) == made


# Work


@pytest.mark.parametrize(
    ("config", "steps", "tokens", "flops_per_token"),
    [
        (SFTConfig(epochs=2, batch_size=2), 4, 80, 6),
        (SFTConfig(epochs=2, batch_size=3), 2, 80, 6),
        (SFTConfig(epochs=1, batch_size=2, lora=True), 2, 80, 4),
        (RewardConfig(epochs=1, batch_size=1), 3, 80, 6),
        (KTOConfig(epochs=1, batch_size=16), 1, 80, 12),
        (DPOConfig(epochs=3, batch_size=2), 6, 140, 8),  # the prompt goes through with each answer
        (DPOConfig(epochs=3, batch_size=2, lora=True), 6, 140, 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RunConfig) else str(value),
)
def test_work_of_what_sees_data_in_epochs(config: RunConfig, steps: int, tokens: int, flops_per_token: int) -> None:
    todo = work(config, LENGTHS, POLICY)
    epochs = getattr(config, "epochs", 0)
    assert (todo.steps, todo.epochs, todo.tokens_per_epoch, todo.tokens) == (steps, epochs, tokens, tokens * epochs)
    assert todo.flops == flops_per_token * POLICY.parameters * tokens * epochs
    assert todo.sampling_flops == 0


def test_work_of_ppo() -> None:
    config = PPOConfig(
        iterations=3, batch_size=8, minibatches=2, samples_per_prompt=2, inner_epochs=2, max_new_tokens=6
    )
    todo = work(config, LENGTHS, POLICY, JUDGE)
    tokens = 8 * (20 + 6)  # prompts are 20 long on average
    assert (todo.steps, todo.epochs, todo.tokens_per_epoch) == (3 * 2 * 2, 3, tokens)
    forwards = 2 * tokens * (1000 + 1000 + 400 + 400)
    updates = 2 * 6 * tokens * (1000 + 400)
    assert todo.flops == 3 * (forwards + updates)
    assert todo.sampling_flops == 3 * 2 * 1000 * 8 * 6
    texts = work(config.model_copy(update={"pretraining": "texts.txt"}), LENGTHS, POLICY, JUDGE).flops - todo.flops
    assert texts == 3 * 2 * 6 * 1000 * 8 * 8 * 128
    assert work(config, LENGTHS, POLICY).flops > todo.flops, "a reward model that is not there yet is as large"


def test_seconds() -> None:
    todo = Work(steps=1, epochs=1, tokens_per_epoch=1, flops=4e9, sampling_flops=1e9)
    assert math.isclose(seconds(todo, 2e9), 2 / TRAINING_EFFICIENCY + 0.5 / SAMPLING_EFFICIENCY)


# Memory and disk


@pytest.mark.parametrize(
    ("number_bytes", "bytes_a_parameter"),
    [(4, 4 + 4 + 8), (2, 2 + 2 + 4 + 4 + 8)],  # weights, gradients, (masters and theirs,) moments
)
def test_memory_of_all_weights(number_bytes: int, bytes_a_parameter: int) -> None:
    parts = memory(RewardConfig(), POLICY, None, number_bytes=number_bytes, tokens_per_pass=0)
    assert parts == {"policy": 1000 * bytes_a_parameter, "passes": 0}


def test_memory_of_adapters() -> None:
    adapters = 2 * 16 * (8 + 16)
    parts = memory(SFTConfig(lora=True), POLICY, None, number_bytes=2, tokens_per_pass=0)
    assert parts["policy"] == 1000 * 2 + adapters * 16
    assert "reference" not in memory(DPOConfig(lora=True), POLICY, None, number_bytes=2, tokens_per_pass=0)
    at_the_end = memory(PPOConfig(lora=True), POLICY, JUDGE, number_bytes=2, tokens_per_pass=0)
    assert at_the_end["reference"] == 2000
    for config, shards in ((PPOConfig(lora=True), 2), (PPOConfig(lora=True, validation=0), 1)):
        assert "reference" not in memory(config, POLICY, JUDGE, number_bytes=2, tokens_per_pass=0, shards=shards)


def test_the_context_is_that_of_all_who_read() -> None:
    short = replace(JUDGE, context_length=POLICY.context_length - 1)
    assert context_length(PPOConfig(), POLICY, short) == short.context_length
    assert context_length(PPOConfig(), short, POLICY) == short.context_length
    assert context_length(PPOConfig(), POLICY, None) == POLICY.context_length
    assert context_length(SFTConfig(reward_model="judge"), POLICY, short) == POLICY.context_length


def test_memory_of_other_models() -> None:
    def parts(config: RunConfig, shards: int = 1) -> dict[str, int]:
        return memory(config, POLICY, JUDGE, number_bytes=2, tokens_per_pass=0, shards=shards)

    for config in (DPOConfig(), KTOConfig()):  # in float32, whatever is computed in, and saved so
        assert parts(config) == {"policy": 16000, "reference": 4000, "passes": 0}
        assert disk(config, POLICY, None, number_bytes=2)["checkpoint"] == 4000
    best = {"policy": 20000, "copies of weights": 4000, "passes": 0}
    assert parts(SFTConfig()) == best
    assert parts(SFTConfig(reward_model="judge")) == best | {"reward model": 800}
    shared = {"policy": 20000, "value network": 8000, "copies of weights": 2 * 4000}
    whole = {"reference": 2000, "reward model": 800}
    assert parts(PPOConfig()) == shared | whole | {"passes": 0}
    sharded = {name: size // 4 for name, size in shared.items()} | whole | {"policy to sample from": 2000}
    assert parts(PPOConfig(), shards=4) == sharded | {"passes": 0}


def test_memory_of_a_pass() -> None:
    def passes(config: RunConfig) -> int:
        return memory(config, POLICY, None, number_bytes=2, tokens_per_pass=10)["passes"]

    assert passes(SFTConfig()) == 10 * (2 * (12 * 8 + 4 * 16) * 2 + 50 * (2 + 2))
    assert passes(DPOConfig()) == 10 * (2 * (12 * 8 + 4 * 16) * 2 + 50 * (2 + 8))


def test_a_pass_keeps_about_what_is_estimated(tmp_path: Path) -> None:
    """Counted over the tensors that torch saves for the way back, without those that are weights."""
    from honed.training.forward import policy_logits
    from honed.training.objectives import token_logprobs

    shape = read_shape(save_tiny_policy(tmp_path / "model", hidden_size=64, intermediate_size=160, num_hidden_layers=4))
    model = tiny_model(hidden_size=64, intermediate_size=160, num_hidden_layers=4)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    packed = pack([Tree((1, 5), tuple(tuple(range(10, 40)) for _ in range(4)))], torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_logprobs(policy_logits(model, packed), packed.target_ids).sum()
    estimate = memory(SFTConfig(), shape, None, number_bytes=4, tokens_per_pass=packed.ids.numel())["passes"]
    assert 0.5 < sum(saved.values()) / estimate < 2


def test_disk_of_what_is_written() -> None:
    def parts(config: RunConfig) -> dict[str, int]:
        return disk(config, POLICY, JUDGE, number_bytes=2)

    assert parts(RewardConfig()) == {"checkpoint": 2000, "states": 2 * 12 * 1000}
    assert parts(SFTConfig(lora=True))["states"] == 2 * (12 + 4) * 16 * 48
    assert parts(PPOConfig())["states"] == 2 * ((12 + 2 * 4) * 1000 + 12 * 400)
