"""Answers of the engine on the weights of a model in training."""

from __future__ import annotations

import pytest
import torch
from casts import EOS
from fakes import ARCHITECTURES, Architecture, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from honed.training.adapters import add_adapters
from honed.training.attention import ATTENTION
from honed.training.failures import TrainingError
from honed.training.generation import Answer, Generator, greedy, text_of
from honed.training.loading import Loaded

PROMPTS = [(10, 11, 12), tuple(range(20, 45)), (50,), tuple(range(60, 77))]


def loaded_of(model: PreTrainedModel | None = None) -> Loaded:
    model = model or tiny_model()
    model.set_attn_implementation(ATTENTION)
    return Loaded(model, tiny_tokenizer(), frozenset({EOS}))


def generator_of(loaded: Loaded) -> Generator:
    return Generator(loaded)


@torch.no_grad()
def plain_greedy(model: PreTrainedModel, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """By transformers' own forward pass, a whole one for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    return tuple(ids[len(prompt) :])


@torch.no_grad()
def shake(model: nn.Module, seed: int) -> None:
    """Other weights in the same tensors."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_by_the_weights_of_this_moment(architecture: Architecture) -> None:
    """Also after the weights were changed, of prompts that the engine has seen."""
    loaded = loaded_of(tiny_model(architecture))
    generator = generator_of(loaded)
    found = []
    for seed in range(3):
        answers = [answer.ids for answer in greedy(generator, PROMPTS, 8)]
        assert answers == [plain_greedy(loaded.model, prompt, 8) for prompt in PROMPTS]
        found.append(tuple(answers))
        shake(loaded.model, seed)
    assert len(set(found)) == 3


def test_answers_are_by_the_adapters_of_this_moment() -> None:
    loaded = loaded_of()
    add_adapters(loaded.model, rank=4, alpha=8, seed=0)
    generator = generator_of(loaded)
    before = greedy(generator, PROMPTS, 8)
    shake(loaded.model.model.layers[1].mlp.up_proj.lora_B, 1)
    after = greedy(generator, PROMPTS, 8)
    assert after != before
    assert [answer.ids for answer in after] == [plain_greedy(loaded.model, prompt, 8) for prompt in PROMPTS]


def test_outside_of_answering_the_model_is_the_trainers() -> None:
    """Its attention, and no layer works on a copy of its weights."""
    loaded = loaded_of()
    generator = generator_of(loaded)
    for _ in range(2):
        greedy(generator, PROMPTS, 2)
        assert loaded.model.config._attn_implementation == ATTENTION
        assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_rule_2_an_answer_has_its_end_where_it_ended_and_no_end_where_it_was_cut() -> None:
    loaded = loaded_of()
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(0.1)  # nearly equal logits: an end comes sooner or later
    answers = generator_of(loaded).answer([(10, 11)] * 60, range(60), max_new_tokens=60, temperature=1.0)
    assert {answer.ended for answer in answers} == {True, False}
    for answer in answers:
        assert (answer.ids[-1] == EOS) == answer.ended
        assert EOS not in answer.ids[:-1]
        assert answer.ended or len(answer.ids) == 60


def test_an_end_at_the_last_place_is_an_end() -> None:
    loaded = loaded_of()
    with torch.no_grad():
        head = torch.zeros_like(loaded.model.lm_head.weight)
        head[EOS] = loaded.model.model(input_ids=torch.tensor([[10, 11]])).last_hidden_state[0, -1]
        loaded.model.lm_head.weight.copy_(head)
    assert greedy(generator_of(loaded), [(10, 11)], 1) == [Answer((EOS,), True)]


def test_an_answer_depends_on_its_seed_and_not_on_the_company() -> None:
    """Nor on its place, nor on a neighbour with the same prompt, which is read once for both."""
    loaded = loaded_of()
    asked = [PROMPTS[1], PROMPTS[1], PROMPTS[0], PROMPTS[1], PROMPTS[3]]
    seeds = [5, 6, 7, 5, 2**62]
    together = generator_of(loaded).answer(asked, seeds, max_new_tokens=10, temperature=1.0)
    generator = generator_of(loaded)
    for prompt, seed, answer in zip(asked, seeds, together, strict=True):
        assert generator.answer([prompt], [seed], max_new_tokens=10, temperature=1.0) == [answer]
    assert together[0] == together[3]
    assert together[0] != together[1]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_rule_5_nothing_is_filtered_and_logits_are_divided_by_the_temperature(temperature: float) -> None:
    """Of a few thousand first tokens each comes as often as it is probable, the least probable ones included."""
    model = tiny_model(vocab_size=16)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    loaded = loaded_of(model)
    count = 4000
    answers = generator_of(loaded).answer([(10, 11)] * count, range(count), max_new_tokens=1, temperature=temperature)
    drawn = torch.bincount(torch.tensor([answer.ids[0] for answer in answers]), minlength=16)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[10, 11]]), use_cache=False).logits[0, -1]
    expected = (logits / temperature).softmax(dim=-1) * count
    assert float(expected.min()) < 0.03 * count
    error: Tensor = (drawn - expected).abs() / expected.sqrt()
    assert float(error.max()) < 4.5
    other = (logits / (temperature + 0.3)).softmax(dim=-1) * count
    assert float(((drawn - other).abs() / other.sqrt()).max()) > 4.5


def test_numbers_that_cannot_be_sampled_from_stop_the_run() -> None:
    loaded = loaded_of()
    generator = generator_of(loaded)
    greedy(generator, PROMPTS, 2)
    with torch.no_grad():
        loaded.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite: the run diverged"):
        greedy(generator, PROMPTS, 2)


def test_nobody_is_answered_nothing() -> None:
    assert greedy(generator_of(loaded_of()), [], 5) == []


def test_a_copy_takes_over_the_weights_before_it_answers() -> None:
    """What a model that is shared out needs."""
    loaded = loaded_of()
    copy = tiny_model(seed=9)
    generator = Generator(loaded, mirror=copy)
    for seed in range(2):
        answers = [answer.ids for answer in greedy(generator, PROMPTS, 6)]
        assert answers == [plain_greedy(loaded.model, prompt, 6) for prompt in PROMPTS]
        shake(loaded.model, seed)


def test_a_text_for_people_has_no_special_tokens() -> None:
    ids = (*tiny_tokenizer().encode("Paris."), EOS)
    assert text_of(loaded_of(), Answer(ids, True)) == "Paris."
