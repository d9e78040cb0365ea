"""The only loop: `schedule -> run -> sample -> emit`. One engine runs one model and is touched by one thread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from honed.models.engine.kv_cache import KVCache
from honed.models.engine.runner import Runner
from honed.models.engine.sampler import Sample, sample
from honed.models.engine.scheduler import Scheduler
from honed.models.engine.sequence import FinishReason, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes. `num_blocks * block_size` tokens fit the cache (`cache_blocks` says how many do)."""

    num_blocks: int
    block_size: int = 16
    max_batch_tokens: int = 256  # a step's tokens: bounds how long a prompt that is read delays those who are answered
    max_sequences: int = 64
    pack_weights: bool = False  # see `packing.py`


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token, or, with `sample` None, the end of a sequence that got none in this step."""

    sequence: Sequence
    sample: Sample | None
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A photograph between two steps."""

    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0  # 0 to 1
    preemptions: int = 0  # since the start


class Engine:
    def __init__(self, model: PreTrainedModel, config: EngineConfig) -> None:
        """Raises UnsupportedArchitectureError when the model cannot be run right."""
        self.config = config
        self.cache = KVCache(config.num_blocks + 1, config.block_size)  # one more: the padding block
        self.scheduler = Scheduler(
            self.cache, max_batch_tokens=config.max_batch_tokens, max_sequences=config.max_sequences
        )
        self.runner = Runner(model, num_blocks=config.num_blocks + 1, block_size=config.block_size)
        self.runner.prepare(pack_weights=config.pack_weights)

    def add(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Takes a sequence out before the next step. Nothing happens when it has finished."""
        self.scheduler.finish(sequence, FinishReason.ABORT)

    def step(self) -> list[Token]:
        """Runs one batch. Returns a token for every sequence that got one; empty when there is nothing to do."""
        chunks = self.scheduler.schedule()
        if not chunks:
            return []
        chunks, logits = self.runner.forward(chunks)
        for chunk in chunks:
            chunk.sequence.num_computed = chunk.end
        finite = logits.amax(dim=-1).isfinite().tolist()  # a NaN anywhere in a row is its maximum
        failed = [self._fail(chunk.sequence) for chunk, is_finite in zip(chunks, finite, strict=True) if not is_finite]
        rows = [row for row, chunk in enumerate(chunks) if finite[row] and chunk.is_last]
        for chunk in chunks:
            if not chunk.sequence.is_finished:
                self.cache.register(chunk.sequence)
        sequences = [chunks[row].sequence for row in rows]
        if 0 < len(rows) < len(chunks):
            logits = logits[rows]
        samples = sample(logits, sequences) if rows else []
        return failed + [self._emit(*each) for each in zip(sequences, samples, strict=True)]

    def run(self, sequences: list[Sequence]) -> list[list[Sample]]:
        """Adds the sequences and steps until all have ended; their samples in the same order."""
        samples: dict[Sequence, list[Sample]] = {sequence: [] for sequence in sequences}
        for sequence in sequences:
            self.add(sequence)
        while not all(sequence.is_finished for sequence in sequences):
            for token in self.step():
                if token.sample is not None and token.sequence in samples:
                    samples[token.sequence].append(token.sample)
        return list(samples.values())

    @property
    def is_idle(self) -> bool:
        return not (self.scheduler.running or self.scheduler.waiting)

    def release(self) -> None:
        """Gives back the memory of the cache and of the model's weights, whoever still refers to them. When it is over:
        neither the engine nor the model runs again."""
        self.runner.release()

    def stats(self) -> EngineStats:
        s = self.scheduler
        return EngineStats(len(s.running), len(s.waiting), self.cache.usage, s.preemptions)

    def check_integrity(self) -> None:
        self.cache.check_integrity(self.scheduler.running)

    def _fail(self, sequence: Sequence) -> Token:
        """Ends a sequence whose numbers cannot be used. Its blocks are zeroed: a masked NaN would reach their next
        user all the same."""
        blocks = list(sequence.block_ids)
        self.scheduler.finish(sequence, FinishReason.ERROR)
        self.cache.forget(blocks)
        self.runner.erase([block for block in blocks if self.cache.is_free(block)])
        return Token(sequence, None, FinishReason.ERROR)

    def _emit(self, sequence: Sequence, result: Sample) -> Token:
        if not result.is_finite:
            return self._fail(sequence)
        sequence.token_ids.append(result.token_id)
        reason = _reason_to_end(sequence, result.token_id)
        if reason is not None:
            self.scheduler.finish(sequence, reason)
        return Token(sequence, result, reason)


def _reason_to_end(sequence: Sequence, token_id: int) -> FinishReason | None:
    params = sequence.params
    if token_id in params.stop_token_ids and sequence.num_output > params.min_tokens:
        return FinishReason.STOP
    if sequence.num_output >= params.max_tokens:
        return FinishReason.LENGTH
    return None


def cache_blocks(model: PreTrainedModel, num_bytes: int, block_size: int) -> int:
    """How many blocks of `block_size` tokens fit into `num_bytes`."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    element = torch.finfo(model.dtype).bits // 8
    block = 2 * config.num_hidden_layers * heads * size * element * block_size
    return num_bytes // int(block)
