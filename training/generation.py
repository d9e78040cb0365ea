"""Answers from the engine that serves, running on the weights of the model that is trained.

Owns the sizes of that engine and handing the model over to it and back: the two look at attention differently. Each
answer's noise comes from a seed of its own, so that an answer does not depend on who else is answered, nor on how many
ranks share the prompts. A model that is shared out cannot be stepped by one rank alone: a whole copy stands in for it.
Invariant: outside of `answer` the model is the trainer's, its attention and its weights plain.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from honed.models.engine.engine import Engine, EngineConfig, cache_blocks
from honed.models.engine.packing import can_pack, packed_bytes, unpack
from honed.models.engine.runner import UnsupportedArchitectureError
from honed.models.engine.sequence import FinishReason, SamplingParams, Sequence
from honed.training.attention import ATTENTION
from honed.training.failures import TrainingError
from honed.training.learner import DivergedError
from honed.training.loading import Loaded, load_model
from honed.training.planning.machine import free_memory
from honed.training.run import Run
from honed.training.sharding import is_sharded
from honed.training.weights import copy_whole

BLOCK_SIZE = 16
MAX_SEQUENCES = {"cpu": 128, "cuda": 256}
CACHE_SHARE = 0.5  # of the memory that is free
MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Answer:
    """`ids` with the token that ended it, where `ended`; else it was cut at the length that was asked for."""

    ids: tuple[int, ...]
    ended: bool


class Generator:
    """Each call has an engine of its own, so that its cache is gone when the answers are there. `mirror`: a copy that
    takes over the weights of `loaded` before it answers; then all ranks have to ask equally often."""

    def __init__(self, loaded: Loaded, *, mirror: PreTrainedModel | None = None) -> None:
        self._trained = loaded.model
        self._model: PreTrainedModel = loaded.model if mirror is None else mirror
        self._eos_token_ids = loaded.eos_token_ids

    def answer(
        self, prompts: Items[tuple[int, ...]], seeds: Items[int], *, max_new_tokens: int, temperature: float
    ) -> list[Answer]:
        """An answer to each prompt by the weights of this moment; equal prompts in a row are read once.

        A temperature of 0 is greedy. Raises DivergedError where the model gives numbers that cannot be sampled from,
        and TrainingError where the engine cannot run it or has no room for one answer.
        """
        if self._model is not self._trained:
            copy_whole(self._trained, self._model)
        if not prompts:
            return []
        params = SamplingParams(max_tokens=max_new_tokens, temperature=temperature, stop_token_ids=self._eos_token_ids)
        sequences: list[Sequence] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            leader = sequences[-1] if sequences and sequences[-1].prompt_ids == prompt else None
            sequences.append(Sequence(prompt, params, seed, (leader.leader or leader) if leader else None))
        try:
            self._engine(sequences, max(map(len, prompts)) + max_new_tokens).run(sequences)
        finally:
            unpack(self._model)
            self._model.set_attn_implementation(ATTENTION)
        if any(sequence.finish_reason == FinishReason.ERROR for sequence in sequences):
            raise DivergedError("The policy's numbers are not finite: the run diverged. Lower --learning-rate.")
        return [Answer(tuple(s.output_ids), s.finish_reason == FinishReason.STOP) for s in sequences]

    def _engine(self, sequences: Items[Sequence], longest: int) -> Engine:
        """Sized for these sequences, `longest` tokens each, as far as memory goes."""
        place = self._model.device
        # A sum says it at the speed of memory: one NaN or infinity, and it is none.
        if not all(each.sum(dtype=torch.float32).isfinite() for each in self._model.parameters()):
            raise DivergedError("The policy's weights are not finite: the run diverged. Lower --learning-rate.")
        blocks_each = -(-longest // BLOCK_SIZE) + 1  # one to spare, so that none has to wait
        most = cache_blocks(self._model, int(CACHE_SHARE * free_memory(place)), BLOCK_SIZE) // blocks_each
        count = min(MAX_SEQUENCES[place.type], len(sequences), most)
        if count < 1:
            raise TrainingError(f"{place} has no memory for one answer of {longest} tokens: lower --max-tokens.")
        config = EngineConfig(
            num_blocks=count * blocks_each,
            block_size=BLOCK_SIZE,
            max_batch_tokens=MAX_BATCH_TOKENS[place.type],
            max_sequences=count,
            pack_weights=can_pack(self._model) and packed_bytes(self._model) < CACHE_SHARE * free_memory(place),
        )
        try:
            return Engine(self._model, config)
        except UnsupportedArchitectureError as error:
            raise TrainingError(f"The model cannot be sampled from: {error}") from error


def generator_of(loaded: Loaded, run: Run[Any]) -> Generator:
    """For a model that is ready to be trained. Raises as `load_model` does."""
    mirror = load_model(run.parent, run.dtype, run.ranks.device).model if is_sharded(loaded.model) else None
    return Generator(loaded, mirror=mirror)


def greedy(generator: Generator, prompts: Items[tuple[int, ...]], max_new_tokens: int) -> list[Answer]:
    """The most probable answers."""
    return generator.answer(prompts, [0] * len(prompts), max_new_tokens=max_new_tokens, temperature=0.0)


def text_of(loaded: Loaded, answer: Answer) -> str:
    """For people: without special tokens."""
    return str(loaded.tokenizer.decode(list(answer.ids), skip_special_tokens=True))
