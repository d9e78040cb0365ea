"""The engine against `model.generate`: the same weights must give the same tokens, alone and in any company."""

import random
import weakref

import pytest
import torch
from fakes import ARCHITECTURES, Architecture, tiny_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from honed.models.engine.engine import Engine, EngineConfig, cache_blocks
from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import FinishReason, SamplingParams, Sequence

EOS = 2
VOCABULARY = 268


def small_engine(model: PreTrainedModel, **overrides: int) -> Engine:
    sizes = {"num_blocks": 64, "block_size": 4, "max_batch_tokens": 16, "max_sequences": 8}
    return Engine(model, EngineConfig(**(sizes | overrides)))


def greedy(prompt: list[int], max_tokens: int = 24) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, stop_token_ids=frozenset({EOS}))
    return Sequence(tuple(prompt), params, seed=0)


def generate(model: PreTrainedModel, prompt: list[int], max_tokens: int = 24) -> list[int]:
    """What transformers answers, with its own attention and cache."""
    model.set_attn_implementation("eager")
    ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=3,
    )
    return output[0, len(prompt) :].tolist()


def logprobs_of(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    r = random.Random(seed)
    return [[r.randrange(4, VOCABULARY) for _ in range(r.choice([1, 2, 5, 15, 16, 17, 40]))] for _ in range(count)]


def ids(samples: list[Sample]) -> list[int]:
    return [sample.token_id for sample in samples]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_alone_and_in_mixed_batches(architecture: Architecture) -> None:
    model = tiny_model(architecture)
    asked = prompts(12)
    expected = [generate(model, prompt) for prompt in asked]
    assert len({tuple(answer) for answer in expected}) > 6, "the model is too dull to show a mistake"

    engine = small_engine(model)
    for prompt, answer in zip(asked, expected, strict=True):
        assert ids(engine.run([greedy(prompt)])[0]) == answer
    together = small_engine(model).run([greedy(prompt) for prompt in asked])
    assert [ids(samples) for samples in together] == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_equal_a_plain_forward_pass(architecture: Architecture) -> None:
    model = tiny_model(architecture)
    asked = prompts(6, seed=1)
    answers = small_engine(model).run([greedy(prompt) for prompt in asked])
    for prompt, samples in zip(asked, answers, strict=True):
        expected = logprobs_of(model, prompt, ids(samples))
        torch.testing.assert_close(torch.tensor([sample.logprob for sample in samples]), expected, atol=1e-4, rtol=0)


def test_answers_survive_preemption() -> None:
    """Memory for two and a half sequences, five of them: the newest are thrown out and computed again."""
    model = tiny_model()
    asked = [prompt[:15] for prompt in prompts(5, seed=2)]
    expected = [generate(model, prompt) for prompt in asked]
    engine = small_engine(model, num_blocks=20)
    answers = engine.run([greedy(prompt) for prompt in asked])
    assert engine.stats().preemptions > 0
    assert [ids(samples) for samples in answers] == expected
    engine.check_integrity()
    assert engine.stats().cache_usage == 0


def test_a_known_beginning_is_not_computed_again() -> None:
    model = tiny_model()
    prompt = prompts(1, seed=3)[0] * 3
    engine = small_engine(model)
    first, second = greedy(prompt), greedy(prompt)
    before = engine.run([first])
    after = engine.run([second])
    assert first.num_cached == 0
    assert second.num_cached == (len(prompt) - 1) // 4 * 4
    assert ids(before[0]) == ids(after[0])


def test_n_answers_share_one_prefill() -> None:
    """The followers wait for the leader's prompt and then compute only what does not fill a block."""
    model = tiny_model()
    prompt = (prompts(1, seed=4)[0] * 40)[:39]
    params = SamplingParams(max_tokens=8, temperature=1.0)
    leader = Sequence(tuple(prompt), params, seed=1)
    followers = [Sequence(tuple(prompt), params, seed=seed, leader=leader) for seed in (2, 3)]
    engine = small_engine(model)
    answers = engine.run([leader, *followers])
    assert [follower.num_cached for follower in followers] == [36, 36]
    alone = [engine.run([Sequence(tuple(prompt), params, seed=seed)])[0] for seed in (1, 2, 3)]
    assert [ids(each) for each in answers] == [ids(each) for each in alone]
    assert len({tuple(ids(each)) for each in answers}) == 3


def test_followers_go_on_when_the_leader_is_aborted() -> None:
    engine = small_engine(tiny_model())
    leader = greedy([5] * 60)
    follower = Sequence(leader.prompt_ids, leader.params, seed=0, leader=leader)
    engine.add(leader)
    engine.add(follower)
    engine.step()
    assert not follower.block_ids
    engine.abort(leader)
    while not engine.is_idle:
        engine.step()
    assert follower.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    engine.check_integrity()


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """A prompt of 200 tokens is read 16 at a time, and the one who is answering gets a token in every step."""
    engine = small_engine(tiny_model())
    answering = Sequence((5, 6, 7), SamplingParams(max_tokens=40, temperature=0), seed=0)
    engine.add(answering)
    engine.step()
    reading = greedy([9] * 200)
    engine.add(reading)
    while reading.num_output == 0:
        assert answering in [token.sequence for token in engine.step()]
    assert answering.num_output == 1 + 200 // 15 + 1


def test_abort_frees_within_a_step() -> None:
    engine = small_engine(tiny_model())
    sequences = [greedy(prompt) for prompt in prompts(8, seed=5)]
    for sequence in sequences:
        engine.add(sequence)
    engine.step()
    for sequence in sequences:
        engine.abort(sequence)
    engine.abort(sequences[0])  # twice is once
    assert engine.step() == []
    assert engine.is_idle
    assert engine.stats().cache_usage == 0
    engine.check_integrity()


def test_ends_by_length_by_eos_and_by_stop_token() -> None:
    model = tiny_model()
    engine = small_engine(model)
    prompt = [11, 12, 13]
    free = Sequence(tuple(prompt), SamplingParams(max_tokens=12, temperature=0), seed=0)
    answer = ids(engine.run([free])[0])
    assert free.finish_reason is FinishReason.LENGTH
    assert len(answer) == 12
    fourth = answer[3]
    stop_at = answer.index(fourth) + 1
    params = SamplingParams(max_tokens=12, temperature=0, stop_token_ids=frozenset({fourth}))
    stopped = Sequence(tuple(prompt), params, seed=0)
    assert ids(engine.run([stopped])[0]) == answer[:stop_at]
    assert stopped.finish_reason is FinishReason.STOP


def test_min_tokens_forbids_an_early_end() -> None:
    engine = small_engine(tiny_model())
    everything = frozenset(range(VOCABULARY)) - {50, 51}
    params = SamplingParams(max_tokens=12, stop_token_ids=everything, min_tokens=5)
    sequence = Sequence((5,), params, seed=3)
    answer = ids(engine.run([sequence])[0])
    assert set(answer[:5]) <= {50, 51}
    assert len(answer) >= 6


def test_a_row_does_not_depend_on_its_company() -> None:
    """Sampled, with every filter: the same request with the same seed, alone and among others, is the same answer."""
    model = tiny_model()
    r = random.Random(6)

    def request(index: int) -> Sequence:
        params = SamplingParams(
            max_tokens=10 + index,
            temperature=[0.0, 0.7, 1.0, 1.5][index % 4],
            top_p=[1.0, 0.9][index % 2],
            top_k=[0, 20, 3][index % 3],
            min_p=[0.0, 0.05][index % 2],
            repetition_penalty=[1.0, 1.3][index % 2],
            frequency_penalty=[0.0, 0.5][index % 2],
            logit_bias={7: 2.0} if index % 3 else {},
        )
        return Sequence(tuple(asked[index]), params, seed=index)

    asked = [[r.randrange(4, VOCABULARY) for _ in range(r.randrange(1, 40))] for _ in range(16)]
    alone = [ids(small_engine(model).run([request(index)])[0]) for index in range(16)]
    together = small_engine(model).run([request(index) for index in range(16)])
    assert [ids(samples) for samples in together] == alone


def test_numbers_that_are_not_finite_end_one_request_and_poison_nobody() -> None:
    """A token whose embedding is NaN: its sequence ends with an error, the next user of its blocks does not."""
    model = tiny_model()
    expected = generate(model, [5, 6, 7])
    poison = VOCABULARY - 1
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = float("nan")
    engine = small_engine(model, num_blocks=12)
    sick, well = greedy([poison] * 9), greedy([5, 6, 7])
    answers = engine.run([sick, well])
    assert sick.finish_reason is FinishReason.ERROR
    assert answers[0] == []
    assert ids(answers[1]) == expected
    for _ in range(3):
        assert ids(engine.run([greedy([5, 6, 7])])[0]) == expected
    engine.check_integrity()


def test_a_sick_prompt_leaves_nothing_behind_when_it_is_read_in_pieces() -> None:
    """Read 16 at a time, it ends at the first piece; the blocks that it wrote serve others at once."""
    model = tiny_model()
    poison = VOCABULARY - 1
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = float("nan")
    engine = small_engine(model, num_blocks=12)
    sick = greedy([poison] * 40, max_tokens=4)
    engine.add(sick)
    engine.step()
    assert sick.finish_reason is FinishReason.ERROR
    for token in range(5, 17):
        healthy = greedy([token] * 3, max_tokens=4)
        engine.run([healthy])
        assert healthy.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)


def test_long_and_short_conversations_side_by_side() -> None:
    """Lengths from 1 to 400 attend in groups of their own, and each gets what it gets alone."""
    model = tiny_model()
    r = random.Random(8)
    asked = [[r.randrange(4, VOCABULARY) for _ in range(length)] for length in (1, 400, 3, 70, 64, 65, 200)]
    expected = [generate(model, prompt, 10) for prompt in asked]
    engine = small_engine(model, num_blocks=300, max_batch_tokens=512)
    assert [ids(each) for each in engine.run([greedy(prompt, 10) for prompt in asked])] == expected


@pytest.mark.parametrize("seed", range(3))
def test_any_traffic_gives_everybody_the_answer_that_they_get_alone(seed: int) -> None:
    """Arrivals, aborts, followers, shared beginnings and preemptions in a cache that is too small, on the real engine:
    the books balance after every step, and so does what is in the shared blocks."""
    model = tiny_model(num_hidden_layers=1)
    r = random.Random(seed)
    roots = [[r.randrange(4, VOCABULARY) for _ in range(24)] for _ in range(2)]

    def request(leader: Sequence | None = None) -> Sequence:
        if leader is not None:
            return Sequence(leader.prompt_ids, leader.params, seed=r.randrange(99), leader=leader)
        prompt = r.choice(roots)[: r.randrange(1, 25)] + [r.randrange(4, VOCABULARY) for _ in range(r.randrange(4))]
        params = SamplingParams(max_tokens=r.randrange(1, 20), temperature=r.choice([0.0, 1.0]))
        return Sequence(tuple(prompt), params, seed=r.randrange(99))

    engine = small_engine(model, num_blocks=24)
    everybody: list[Sequence] = []
    for _ in range(60):
        if r.random() < 0.5:
            leader = request()
            everybody += (group := [leader, *(request(leader) for _ in range(r.choice([0, 0, 2])))])
            for sequence in group:
                engine.add(sequence)
        if everybody and r.random() < 0.1:
            engine.abort(r.choice(everybody))
        engine.step()
        engine.check_integrity()
    while not engine.is_idle:
        engine.step()
        engine.check_integrity()
    assert engine.stats().preemptions > 0
    assert engine.stats().cache_usage == 0
    finished = [s for s in everybody if s.finish_reason is not FinishReason.ABORT]
    alone = small_engine(model, num_blocks=64)
    for sequence in finished:
        again = Sequence(sequence.prompt_ids, sequence.params, sequence.seed)
        alone.run([again])
        assert again.output_ids == sequence.output_ids


def tiny_gemma2() -> PreTrainedModel:
    """Scores capped by tanh, sliding and full layers."""
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=8,
            attn_logit_softcapping=2.0,
            query_pre_attn_scalar=8,
            initializer_range=0.5,
        )
    ).eval()


def tiny_gpt_oss() -> PreTrainedModel:
    """Attention sinks, a mixture of experts."""
    model = GptOssForCausalLM(
        GptOssConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            initializer_range=0.5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    ).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_()
    return model


@pytest.mark.parametrize("make", [tiny_gemma2, tiny_gpt_oss])
def test_capped_scores_and_sinks(make: object) -> None:
    torch.manual_seed(0)
    model = make()  # type: ignore[operator]
    asked = prompts(6, seed=7)
    expected = [generate(model, prompt, 12) for prompt in asked]
    answers = small_engine(model).run([greedy(prompt, 12) for prompt in asked])
    assert [ids(samples) for samples in answers] == expected


def test_an_architecture_with_another_attention_is_refused() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(UnsupportedArchitectureError):
        small_engine(bloom)


def test_angles_that_depend_on_the_batch_are_refused() -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )
    with pytest.raises(UnsupportedArchitectureError, match="dynamic"):
        small_engine(LlamaForCausalLM(config).eval())


def test_cache_blocks_counts_keys_and_values() -> None:
    """2 layers, 2 key heads of 8, fp32: 2 * 2 * 2 * 8 * 4 = 256 bytes a token."""
    assert cache_blocks(tiny_model(), 256 * 4 * 10 + 1, block_size=4) == 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torchs_default_dtype_changes_nothing(architecture: Architecture) -> None:
    """It is the whole process's, and is another one while transformers loads a model beside this one."""
    model = tiny_model(architecture)
    params = [
        SamplingParams(max_tokens=12, temperature=0, logit_bias={7: 1.2345}, top_logprobs=3),
        SamplingParams(max_tokens=12, temperature=0.77, top_p=0.93, frequency_penalty=0.333, repetition_penalty=1.1),
        SamplingParams(max_tokens=12, top_k=40, min_p=0.0123, presence_penalty=0.777),
    ]

    def answers() -> list[list[Sample]]:
        return small_engine(model).run([Sequence(tuple(range(5, 20 + i)), p, seed=i) for i, p in enumerate(params)])

    expected = answers()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert answers() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_released_engine_keeps_nothing_though_its_model_is_held() -> None:
    model = tiny_model()
    engine = small_engine(model)
    engine.run([greedy([5, 6, 7])])
    held = [weakref.ref(each) for each in (*model.parameters(), *engine.runner.cache.layers[0])]
    engine.release()
    assert [ref for ref in held if ref() is not None] == []
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    engine.release()
