"""One request's state inside the engine: what was asked (`SamplingParams`) and how far it has come (`Sequence`).

A `Sequence` is the only mutable state of a request. The scheduler moves and ends it, the KV cache lends it blocks, the
engine appends to it (and when the engine is dead, its thread ends it); nobody else writes. Text, stop strings and HTTP
are not known here: the engine deals in token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

GREEDY_BELOW = 1e-5  # of a temperature


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-sequence token or one of the request's stop tokens
    LENGTH = "length"  # max_tokens, or the context is full
    ABORT = "abort"  # the caller took the request back
    ERROR = "error"  # the model gave numbers that cannot be sampled from, or the engine died


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one sequence is continued. Ranges are checked at the edge, by the caller.

    Order of application: penalties, `logit_bias`, the ban on stopping before `min_tokens`, temperature, top-k, top-p,
    min-p.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output, as in arXiv:1909.05858, section 4.1
    frequency_penalty: float = 0.0  # a count of the output, as OpenAI documents it
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()  # end here; includes the model's EOS unless it is to be ignored
    top_logprobs: int = 0  # alternatives to report beside the sampled token

    @property
    def is_greedy(self) -> bool:
        """Also for temperatures so small that logits divided by them would overflow."""
        return self.temperature < GREEDY_BELOW


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was sampled after it.

    Invariant: the keys and values of `token_ids[:num_computed]` are in the cache, in `block_ids`, and
    `num_computed < num_tokens` while the sequence lives (the newest token has not been through the model).
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int  # 64 bits; together with the position it decides the noise of every sample
    leader: Sequence | None = None  # has the same prompt: wait for its prefill and share its blocks
    token_ids: list[int] = field(init=False)
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_cached: int | None = None  # prompt tokens found in the cache when first admitted
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        assert self.prompt_ids, "the edge refuses empty prompts"
        self.token_ids = list(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_ids) :]

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def awaits_leader(self) -> bool:
        """True while another sequence is computing the prompt that this one will share."""
        leader = self.leader
        return leader is not None and not leader.is_finished and leader.num_computed < len(leader.prompt_ids)
