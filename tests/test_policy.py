"""Loading checkpoints: what is read from them, and what is said where they cannot be loaded."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, save_tiny_policy, tiny_model, tiny_tokenizer

from honed.models.chat import render_chat
from honed.models.checkpoint import checkpoint_id
from honed.models.policy import PolicyError, choose_device, choose_dtype, load_policy
from honed.models.sources import DEFAULT_MODEL, honed_home, pull

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path, architecture: Architecture) -> None:
    folder = save_tiny_policy(tmp_path / "a", architecture, seed=3)
    policy = load_policy(folder, dtype="float32", device="cpu")
    ids = torch.arange(5, 25)[None]
    assert torch.equal(policy.model(ids).logits, tiny_model(architecture, seed=3)(ids).logits)
    assert (policy.id, policy.name) == (checkpoint_id(folder), "tiny")
    assert (policy.context_length, policy.vocab_size) == (512, len(tiny_tokenizer()))
    assert policy.eos_token_ids == {2}
    assert not policy.model.training


def test_the_name_is_the_caller_s_or_the_lineage_s_or_the_folder_s(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a", name="from-lineage")
    assert load_policy(folder).name == "from-lineage"
    assert load_policy(folder, name="mine").name == "mine"
    (folder / "lineage.json").unlink()
    assert load_policy(folder).name == "a"


def test_eos_is_the_union_of_all_that_name_one(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [7, 9]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 11}))
    assert load_policy(folder).eos_token_ids == {2, 7, 9, 11}


def test_the_template_s_end_of_turn_ends_an_answer_too(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|im_end|>", "<|endoftext|>"))
    assert load_policy(folder).eos_token_ids == {0, 2}


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_the_dtype_is_the_one_named(tmp_path: Path, name: str) -> None:
    assert load_policy(save_tiny_policy(tmp_path / "a"), dtype=name).model.dtype == getattr(torch, name)


def test_auto_on_the_cpu_is_bfloat16_only_where_it_is_native() -> None:
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(PolicyError, match="choose auto, bfloat16, float16, float32"):
        choose_dtype("int4", CPU)


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(PolicyError, match="choose"):
        choose_device(name)


def test_damaged_weights_say_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PolicyError, match=r"weights in .* are damaged: fetch the model again"):
        load_policy(folder)


def test_weights_that_lack_a_tensor_say_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    other = save_tiny_policy(tmp_path / "b", num_hidden_layers=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(PolicyError, match=r"lack .* tensors"):
        load_policy(folder)


def test_a_damaged_tokenizer_says_so(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "a")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(PolicyError, match=r"tokenizer in .* cannot be read"):
        load_policy(folder)


def test_what_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json"):
        load_policy(tmp_path)


@pytest.mark.real_model
def test_the_default_model_says_paris() -> None:
    policy = load_policy(pull(DEFAULT_MODEL, honed_home()), dtype="float32", device="cpu")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = torch.tensor([render_chat(policy.tokenizer, question)])
    mask = torch.ones_like(ids)
    answer = policy.model.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False)
    assert "Paris" in policy.tokenizer.decode(answer[0, ids.shape[1] :])
    assert (policy.name, policy.context_length, policy.eos_token_ids) == (DEFAULT_MODEL, 8192, {2})


@pytest.mark.real_model
def test_the_default_model_reads_digits_one_by_one() -> None:
    tokenizer = load_policy(pull(DEFAULT_MODEL, honed_home()), device="cpu").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("in 2024 costs 12,345"))[1:6] == list("Ġ2024")
    # Without the digits' own step the second space would go to the digit's piece: "Ġ", "Ġ", "5".
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a  5")) == ["a", "ĠĠ", "5"]


def test_an_eos_that_the_model_cannot_say_is_none(tmp_path: Path) -> None:
    """A tokenizer that was extended without its embeddings: the engine must not look such an id up."""
    folder = save_tiny_policy(tmp_path / "tiny")
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [7, 300, -1]}))
    assert load_policy(folder).eos_token_ids == {2, 7}


def test_policies_that_are_loaded_at_once_leave_torch_as_it_was(tmp_path: Path) -> None:
    """While transformers builds a model it changes torch's default dtype, and then puts back what it found."""
    folder = save_tiny_policy(tmp_path / "tiny")
    with ThreadPoolExecutor(4) as threads:
        dtypes = ["bfloat16", "float16"] * 10
        loaded = list(threads.map(lambda dtype: load_policy(folder, dtype=dtype, device="cpu"), dtypes))
    assert torch.get_default_dtype() == torch.float32
    assert [policy.model.dtype for policy in loaded] == [torch.bfloat16, torch.float16] * 10
