"""Rollouts of PPO: the engine on the trainer's own weights against `model.generate`, the same batch, in turn.

    .venv/bin/python benchmarks/rollout_speed.py --data rankings.jsonl

The prompts of a file, `--samples` answers to each, drawn at temperature 1 without filters until a token ends them or
`--max-new-tokens` are there: what a round of PPO draws, with its defaults. `generate` gets batches of `--batch-size`
sequences, unless told otherwise all at once as the engine does on a CPU; prompts of about one length together, since it
waits for the longest. Tokens are those that were sampled, up to the end of each answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from honed.models.policy import choose_device, choose_dtype
from honed.models.sources import honed_home, pull
from honed.server.store.exchange.reading import Entry, read
from honed.training.encoding import Encoder
from honed.training.generation import Generator
from honed.training.loading import Loaded, load_model

MAX_PROMPT_TOKENS = 192


def by_engine(generator: Generator, asked: Sequence[tuple[int, ...]], seed: int, longest: int) -> tuple[int, float]:
    started = time.perf_counter()
    seeds = [seed * len(asked) + i for i in range(len(asked))]
    answers = generator.answer(asked, seeds, max_new_tokens=longest, temperature=1.0)
    return sum(len(answer.ids) for answer in answers), time.perf_counter() - started


@torch.inference_mode()
def by_generate(
    loaded: Loaded, asked: Sequence[tuple[int, ...]], seed: int, longest: int, size: int
) -> tuple[int, float]:
    torch.manual_seed(seed)
    ordered = sorted(asked, key=len)
    device = loaded.model.device
    loaded.model.set_attn_implementation("sdpa")  # transformers' own, which `generate` takes by itself
    ends = torch.tensor(sorted(loaded.eos_token_ids), device=device)
    tokens = 0
    started = time.perf_counter()
    for first in range(0, len(ordered), size):
        some = ordered[first : first + size]
        width = max(map(len, some))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in some], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some], device=device)
        out = loaded.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=longest, eos_token_id=ends.tolist(), pad_token_id=0,
        )[:, width:]  # fmt: skip
        before = torch.isin(out, ends).long().cumsum(dim=1) - torch.isin(out, ends).long()
        tokens += int((before == 0).sum())
    return tokens, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16, help="episodes a prompt")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    folder = pull(options.model, honed_home())
    device = choose_device(options.device)
    loaded = load_model(folder, choose_dtype("auto", device), device)
    encoder = Encoder(loaded.tokenizer, MAX_PROMPT_TOKENS, options.max_new_tokens)
    records = [each.record for each in read(options.data) if isinstance(each, Entry)]
    prompts = [ids for each in records if len(ids := encoder.prompt(each.prompt)) <= MAX_PROMPT_TOKENS]
    asked = [ids for ids in prompts[: options.episodes // options.samples] for _ in range(options.samples)]
    generator = Generator(loaded)
    rates: dict[str, list[float]] = {"engine": [], "generate": []}
    for seed in range(options.rounds):
        for who, (tokens, seconds) in (
            ("engine", by_engine(generator, asked, seed, options.max_new_tokens)),
            ("generate", by_generate(loaded, asked, seed, options.max_new_tokens, options.batch_size)),
        ):
            rates[who].append(tokens / seconds)
            print(f"{who}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s", flush=True)
    ratios = [a / b for a, b in zip(rates["engine"], rates["generate"], strict=True)]
    print(f"engine / generate: median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
