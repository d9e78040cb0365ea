"""The settings of the gate: who is compared, on what, by whom, and what a candidate may lose.

The options of `honed evaluate` and the table of docs/training.md are made of these fields. Imports no torch.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from honed.training.configs import Count, DataConfig, Positive

LEAST: Final = 10  # prompts: fewer say nothing
DIGITS: Final = 6  # of all numbers, before they are compared with anything: more are noise


class EvaluationConfig(DataConfig):
    """Whether a candidate is better than the incumbent, on prompts that no run learned from, by a judge of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    candidate: str = Field(description="The policy to be measured: a checkpoint's name, a folder or a hub id.")
    incumbent: str = Field(description="The policy that it has to beat.")
    judge_model: str = Field(description="A reward model that the candidate was not trained against.")
    output: str | None = Field(
        None, description="Name of the folder in runs; unset, the candidate's with `-evaluation` behind it."
    )
    samples: Count = Field(2, description="Answers a prompt and policy; each is compared with each of the other's.")
    max_prompts: Count = Field(200, description="Most held-out prompts that are asked; which ones is drawn.")
    max_new_tokens: Count = Field(64, description="Longest answer, in tokens.")
    temperature: Positive = Field(1.0, description="Of the answers, and of all log-probabilities.")
    max_tokens: Count = Field(1024, description="Longest prompt and answer together, in tokens.")
    seed: int = Field(0, ge=0, description="Of everything that is drawn: prompts, answers, intervals.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field("auto", description="Numbers to compute in.")
    device: str = Field("auto", description="`cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.")
    text: str | None = Field(
        None, description="File of texts to measure the loss on; unset, the held-out demonstrations."
    )
    judge_url: str | None = Field(
        None, description="A second judge: an OpenAI-compatible server, up to and with /v1. It reads the prompts."
    )
    judge_name: str | None = Field(None, description="With `judge_url`: the model to ask there.")
    judge_key_env: str | None = Field(
        None, description="With `judge_url`: the environment variable that has the key; unset, none is sent."
    )
    people: int = Field(
        0, ge=0, description="Prompts whose answers labelers compare too, if all else lets the candidate through."
    )
    min_win_rate: float = Field(0.5, ge=0, lt=1, description="What the lower bounds of the win rates have to be over.")
    max_loss_rise: float = Field(0.1, ge=0, description="Most that the loss may rise, in nats a token.")
    max_refusal_rise: float = Field(0.1, ge=0, description="Most that the share of refusals may rise.")
    max_repetition_rise: float = Field(0.1, ge=0, description="Most that the share of repeated phrases may rise.")
    max_instruction_drop: float = Field(
        0.1, ge=0, description="Most that the share of instructions that are followed may fall."
    )
    max_kl: float | None = Field(None, ge=0, description="Most nats an answer from the incumbent; unset, no limit.")
    max_length_ratio: Positive | None = Field(
        None, description="Longest answers, as a multiple of the incumbent's; unset, no limit."
    )

    @field_validator("output")
    @classmethod
    def _check_output(cls, name: str | None) -> str | None:
        if name is not None and (not name or name.startswith(".") or "/" in name or "\\" in name):
            raise ValueError("a name, without slashes and no dot in front")
        return name

    @field_validator("judge_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL, as in http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("a URL without a key in it: settings are written down")
        return url.rstrip("/")

    @field_validator("people")
    @classmethod
    def _check_people(cls, count: int) -> int:
        if 0 < count < LEAST:
            raise ValueError(f"0, or at least {LEAST}: fewer say nothing")
        return count

    @model_validator(mode="after")
    def _check_lengths(self) -> EvaluationConfig:
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_new_tokens: fewer than max_tokens, so that there is room for a prompt")
        return self

    @model_validator(mode="after")
    def _check_judge(self) -> EvaluationConfig:
        if self.judge:
            raise ValueError("judge: is a setting of the judge_model's training, and none of an evaluation")
        if (self.judge_url is None) != (self.judge_name is None):
            raise ValueError("judge_url and judge_name: give both, or neither")
        if self.judge_key_env is not None and self.judge_url is None:
            raise ValueError("judge_key_env: is nothing without judge_url")
        return self
