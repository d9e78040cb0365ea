"""Sequences -> tensors -> one forward pass of the model. Owns the cache's tensors; decides nothing.

Any decoder-only model of transformers whose attention goes through `AttentionInterface` runs unchanged. What cannot be
run right is refused when the runner is made, not found out by users: kinds of layers other than full and sliding
attention, rotary embeddings whose angles depend on the batch's longest sequence, and anything whose logits differ from
those of transformers' own forward pass (`prepare`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from honed.models.engine.attention import ATTENTION, PagedBatch, PagedKeysValues, Rows
from honed.models.engine.cascade import Run, find_runs, lay_out
from honed.models.engine.kv_cache import PADDING_BLOCK
from honed.models.engine.packing import pack, unpack
from honed.models.engine.scheduler import Chunk
from honed.models.engine.sequence import SamplingParams, Sequence

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
PROBE_LENGTH = 24  # tokens
LOOKED_AT_TOGETHER = 8_192  # tokens, of sequences with several new ones: their keys are copied for each query head
BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}


class UnsupportedArchitectureError(Exception):
    """The engine cannot run this model and give the answers that the model would give."""


@dataclass(frozen=True, slots=True)
class Group:
    """Chunks that attend together; where they are those of `runs`, in that order, by what these share."""

    chunks: list[Chunk]
    runs: list[Run] = field(default_factory=list)


class Runner:
    def __init__(self, model: PreTrainedModel, *, num_blocks: int, block_size: int) -> None:
        check_config(model.config, type(model).__name__)
        self.model = model
        self.cache = PagedKeysValues(num_blocks, block_size)
        model.set_attn_implementation(ATTENTION)

    @torch.inference_mode()
    def forward(self, chunks: list[Chunk]) -> tuple[list[Chunk], Tensor]:
        """Runs the chunks. Returns them in the batch's order, and the logits (chunks, vocabulary) of the last token of
        each: also of those that do not reach the newest token, where only a NaN is news."""
        # On a GPU cascades were not measured: there, more and smaller kernels may cost more than they save.
        is_on_cpu = self.model.device.type == "cpu"
        groups = list(_groups(chunks, self.cache.block_size, cascades=is_on_cpu))
        chunks = [chunk for group in groups for chunk in group.chunks]
        ends = np.cumsum([_new_tokens(chunk) for chunk in chunks]) - 1
        return chunks, self._run(chunks, self._batch(groups), ends)

    @torch.inference_mode()
    def erase(self, blocks: list[int]) -> None:
        """Zeroes blocks that hold numbers which are not finite, so that their next user is not poisoned."""
        self.cache.erase(blocks)

    def release(self) -> None:
        """Drops the cache's tensors and the model's: those of the model by taking its weights away, so that nothing
        that still holds it keeps gigabytes."""
        self.cache.layers.clear()
        unpack(self.model)
        self.model.to_empty(device="meta")

    @torch.inference_mode()
    def prepare(self, *, pack_weights: bool) -> None:
        """Packs the weights if asked to, and compares the engine's logits of a short prompt with those of transformers'
        own layers and attention.

        Raises UnsupportedArchitectureError when a layer did not come by, or when they differ by more than rounding.
        Uses blocks from 1 on, so it must run before the first sequence.
        """
        unpack(self.model)
        expected = _reference_logits(self.model, PROBE_LENGTH)
        if pack_weights:
            pack(self.model)
        length = PROBE_LENGTH
        probe = Sequence(prompt_ids=_probe_ids(self.model, length), params=SamplingParams(max_tokens=1), seed=0)
        probe.block_ids = list(range(1, 1 + -(-length // self.cache.block_size)))
        parts = []
        # In three pieces, so that reading the cache, and not only writing it, is compared.
        for start, end in ((0, length - 2), (length - 2, length - 1), (length - 1, length)):
            chunk = Chunk(probe, start, end)
            batch = self._batch([Group([chunk])])
            parts.append(self._run([chunk], batch, np.arange(end - start)))
            if len(batch.seen_layers) != self.model.config.get_text_config().num_hidden_layers:
                raise UnsupportedArchitectureError(
                    f"{type(self.model).__name__} has layers whose attention does not go through transformers' "
                    "AttentionInterface. Serve a model of an architecture that does (Llama, Qwen, Mistral, Gemma, ...)."
                )
        self.cache.erase(probe.block_ids)
        _compare(self.model, torch.cat(parts).float(), expected)

    def _batch(self, groups: list[Group]) -> PagedBatch:
        slots = np.concatenate([_slots(chunk, self.cache.block_size) for group in groups for chunk in group.chunks])
        rows = []
        first = 0
        for group in groups:
            rows.append(self._rows(group, first))
            first += sum(map(_new_tokens, group.chunks))
        return PagedBatch(self.cache, self._tensor(slots), rows)

    def _rows(self, group: Group, first: int) -> Rows:
        size, chunks = self.cache.block_size, group.chunks
        counts = [-(-chunk.end // size) for chunk in chunks]
        tables = np.full((len(chunks), max(counts)), PADDING_BLOCK, dtype=np.int64)
        for row, (chunk, count) in enumerate(zip(chunks, counts, strict=True)):
            tables[row, :count] = chunk.sequence.block_ids[:count]
        positions = np.stack([np.arange(chunk.start, chunk.end) for chunk in chunks])
        shared = lay_out(tables, counts, group.runs, size, self.model.device) if group.runs else None
        return Rows(first, self._tensor(tables), self._tensor(positions), shared)

    def _run(self, chunks: list[Chunk], batch: PagedBatch, keep: np.ndarray) -> Tensor:
        """Logits (len(keep), vocabulary) of the flat batch's tokens `keep`."""
        ids = np.concatenate([chunk.sequence.token_ids[chunk.start : chunk.end] for chunk in chunks])
        positions = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in chunks])
        output = self.model(
            input_ids=self._tensor(ids)[None],
            position_ids=self._tensor(positions)[None],
            logits_to_keep=self._tensor(keep),
            use_cache=False,
            paged=batch,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64, copy=False)).to(self.model.device, non_blocking=True)


def _new_tokens(chunk: Chunk) -> int:
    return chunk.end - chunk.start


def _groups(chunks: list[Chunk], block_size: int, *, cascades: bool) -> Iterator[Group]:
    """Chunks with equally many new tokens and about one length together: steps of decoding, and the last tokens of a
    prompt that many share.

    A group's block tables are padded to its longest sequence: without the bound on lengths, one long conversation
    would make every short one as expensive as itself.
    """
    chunks = sorted(chunks, key=_kind)
    for (new_tokens, _), found in itertools.groupby(chunks, key=_kind):
        alike = list(found)
        if new_tokens == 1 and cascades:
            yield from _by_runs(alike, block_size)
        else:
            size = len(alike) if new_tokens == 1 else max(1, LOOKED_AT_TOGETHER // max(chunk.end for chunk in alike))
            yield from (Group(alike[start : start + size]) for start in range(0, len(alike), size))


def _by_runs(chunks: list[Chunk], block_size: int) -> Iterator[Group]:
    """Steps of decoding: those of runs of about one size together, so that little is filled up, and the others."""
    runs = find_runs([chunk.sequence.block_ids[: (chunk.end - 1) // block_size] for chunk in chunks])
    runs.sort(key=_size)
    for _, found in itertools.groupby(runs, key=_size):
        alike = list(found)
        yield Group([chunks[number] for run in alike for number in run.members], alike)
    taken = {number for run in runs for number in run.members}
    if rest := [chunk for number, chunk in enumerate(chunks) if number not in taken]:
        yield Group(rest)


def _size(run: Run) -> int:
    """Which power of two its members have reached."""
    return len(run.members).bit_length()


def _kind(chunk: Chunk) -> tuple[int, int]:
    """How many new tokens, and which power of two the sequence's length has reached."""
    return _new_tokens(chunk), (chunk.end - 1).bit_length()


def _slots(chunk: Chunk, block_size: int) -> np.ndarray:
    positions = np.arange(chunk.start, chunk.end)
    return np.asarray(chunk.sequence.block_ids)[positions // block_size] * block_size + positions % block_size


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raises UnsupportedArchitectureError for what the config alone shows; `name`: of the model's class."""
    config = config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if unknown:
        raise UnsupportedArchitectureError(
            f"{name} has layers of kinds that the engine does not know ({', '.join(sorted(unknown))}). "
            "Serve a model with full or sliding-window attention only."
        )
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = {str(each.get("rope_type")) for each in (rope, *rope.values()) if isinstance(each, dict)}
    if kinds & BATCH_DEPENDENT_ROPE:
        raise UnsupportedArchitectureError(
            f"{name} uses rotary embeddings of type {', '.join(sorted(kinds & BATCH_DEPENDENT_ROPE))}, "
            "whose angles depend on the longest sequence in the batch: one request would change another's answer. "
            'Set rope_type to "default", "linear", "yarn" or "llama3" in its config.json.'
        )


def _probe_ids(model: PreTrainedModel, length: int) -> tuple[int, ...]:
    """Token ids that differ and stay clear of the special ones at both ends of most vocabularies."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    return tuple((vocabulary // 3 + 7 * i) % vocabulary for i in range(length))


@torch.inference_mode()
def _reference_logits(model: PreTrainedModel, length: int) -> Tensor:
    """(length, vocabulary), by transformers' plainest attention, which knows every part of an architecture."""
    ids = torch.tensor([_probe_ids(model, length)], device=model.device)
    model.set_attn_implementation("eager")
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    model.set_attn_implementation(ATTENTION)
    return logits


def _compare(model: PreTrainedModel, ours: Tensor, expected: Tensor) -> None:
    precise = next(model.parameters()).dtype == torch.float32
    error = float((ours - expected).norm() / expected.norm())
    if not error < (1e-3 if precise else 1e-1):
        raise UnsupportedArchitectureError(
            f"the engine's logits for {type(model).__name__} differ from transformers' own by {error:.1%}, more than "
            "rounding explains: its attention has a part that the engine does not know. Serve another architecture, "
            "and please report this one."
        )
