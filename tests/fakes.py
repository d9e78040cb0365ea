"""Tiny real things: a tokenizer of 268 tokens and random models of four architectures, and an engine that only
answers. No download."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from honed.models.checkpoint import Lineage, new_checkpoint_id, save_checkpoint
from honed.models.detokenizer import TokenBytes
from honed.models.engine.engine import EngineConfig, EngineStats, Token
from honed.models.engine.sampler import Sample
from honed.models.engine.sequence import FinishReason, Sequence
from honed.models.policy import Policy
from honed.server.loading import Loaded
from honed.server.settings import Settings

Architecture = Literal["llama", "qwen3", "gpt2", "gemma3"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen3", "gpt2", "gemma3")

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")  # ids 0 to 3
FAKE_ANSWER = "Paris is the capital of France."
CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(kind: Literal["bytelevel", "metaspace"] = "bytelevel") -> PreTrainedTokenizerFast:
    """Every byte is a token, and a few pairs are merged. `metaspace`: SentencePiece's style."""
    backend = _bytelevel() if kind == "bytelevel" else _metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """`size` words, `w0`, `w1`, ..., each a token; `w2` ends a sequence."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w2", unk_token="w0")


def _bytelevel() -> Tokenizer:
    merges = [
        ("Ġ", "t"),
        ("h", "e"),
        ("i", "n"),
        ("a", "n"),
        ("Ġt", "he"),
        ("an", "d"),
        ("o", "n"),
        ("Ġ", "a"),
    ]
    pieces = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return backend


def _metaspace() -> Tokenizer:
    merges = [("▁", "t"), ("h", "e"), ("i", "n"), ("▁t", "he")]
    letters = ["▁", *(chr(c) for c in range(0x21, 0x7F)), "é", "世"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*SPECIALS, *byte_pieces, *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<|endoftext|>",
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(list(SPECIALS))
    return backend


def tiny_model(
    architecture: Architecture = "llama", vocab_size: int = 268, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A random fp32 model in eval mode, a few thousand weights; `overrides` go to its config.

    The weights are larger than a trained start's, so that greedy answers vary with what came before.
    """
    model_class, config_class, settings = _ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, pad_token_id=3, **(settings | overrides)
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 2.0 / parameter.shape[-1] ** 0.5)
    finally:
        torch.set_rng_state(state)
    return model.float().eval()


@contextmanager
def plainly(model: PreTrainedModel) -> Iterator[None]:
    """The model with transformers' plainest attention, for sequences that are not packed."""
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(kept)


_GQA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
_ARCHITECTURES: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**_GQA, "num_hidden_layers": 2}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**_GQA, "num_hidden_layers": 2}),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "tie_word_embeddings": False},
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            **_GQA,
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "query_pre_attn_scalar": 8,
            "tie_word_embeddings": False,
        },
    ),
}


def save_tiny_policy(
    folder: Path, architecture: Architecture = "llama", *, seed: int = 0, name: str = "tiny", **overrides: Any
) -> Path:
    """A checkpoint folder with a tiny model and the byte-level tokenizer."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(architecture, len(tokenizer), seed, **overrides)
    lineage = Lineage(id=new_checkpoint_id(), name=name, stage="source", source="random", created=datetime.now(UTC))
    return save_checkpoint(folder, model, tokenizer, lineage)


class FakeEngine:
    """Answers every prompt with the same tokens, a token a step, and computes nothing: what is left is the server."""

    def __init__(self, answer_ids: list[int], *, max_sequences: int = 256) -> None:
        self.config = EngineConfig(num_blocks=1, max_sequences=max_sequences)
        self._answer = [Sample(token_id, -0.5, (), is_finite=True) for token_id in answer_ids]
        self._running: dict[Sequence, None] = {}

    @property
    def is_idle(self) -> bool:
        return not self._running

    def add(self, sequence: Sequence) -> None:
        sequence.num_cached = 0
        self._running[sequence] = None

    def abort(self, sequence: Sequence) -> None:
        sequence.finish_reason = FinishReason.ABORT
        self._running.pop(sequence, None)

    def step(self) -> list[Token]:
        return [self._next(sequence) for sequence in list(self._running)]

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._running))

    def release(self) -> None:
        """There is nothing to give back."""

    def _next(self, sequence: Sequence) -> Token:
        sample = self._answer[sequence.num_output]
        sequence.token_ids.append(sample.token_id)
        if sequence.num_output == len(self._answer):
            sequence.finish_reason = FinishReason.STOP
        elif sequence.num_output == sequence.params.max_tokens:
            sequence.finish_reason = FinishReason.LENGTH
        if sequence.finish_reason is not None:
            del self._running[sequence]
        return Token(sequence, sample, sequence.finish_reason)


def fake_load(_settings: Settings) -> Loaded:
    """In the place of `honed.server.policies.load`: answers `FAKE_ANSWER`, whatever is asked."""
    tokenizer = tiny_tokenizer()
    policy = Policy(
        id="ckpt-fake",
        name="fake",
        model=tiny_model(),
        tokenizer=tokenizer,
        context_length=8192,
        eos_token_ids=frozenset({2}),
        vocab_size=len(tokenizer),
    )
    answer_ids = [*tokenizer.encode(FAKE_ANSWER, add_special_tokens=False), 2]
    engine: Any = FakeEngine(answer_ids)
    return Loaded(
        policy=policy,
        engine=engine,
        token_bytes=TokenBytes(tokenizer),
        context_length=policy.context_length,
        cache_bytes=2**20,
        folder=Path("fake"),
        lineage=None,
    )
