"""The server's settings: every one, with its default, read once.

Owns names, defaults and bounds; the environment's names are `HONED_` and the field's in capitals. What is
given in code (the command line) wins over the environment. Does no work with them: nothing is opened,
resolved or created here, and nobody else in the server reads the environment. Invariant: a setting that nobody knows is
refused, wherever it stands.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "HONED_"

WHOLE_SHARE = 100  # per cent

# No settings, but no mistakes either: what the terminal chat and the bench send, and what workers read.
OTHERS = (
    "HONED_API_KEY",
    "HONED_CYCLE_AFTER",
    "HONED_CYCLE_HOURS",
    "HONED_JUDGE_URL",
    "HONED_JUDGE_NAME",
    "HONED_JUDGE_KEY",
    "HONED_PRETRAINING",
)


class Settings(BaseSettings):
    """All settings of `honed serve`. Raises pydantic's `ValidationError`, which never shows a value."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path | None = Field(
        default=None, description="Folder of everything that honed writes; unset, the user's cache folder."
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; anything but loopback needs an API key.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        default="smollm2-135m-instruct",
        min_length=1,
        description="Model to serve: a built-in name, a folder, or a hub id.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type of the weights; `auto` is bfloat16 where the hardware has it, else float32 (GPU: float16).",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="`cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Keys that clients may use, separated by commas; none leaves the server open."
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of further keys, one a line; `#` starts a comment."
    )
    database_url: SecretStr | None = Field(
        default=None, description="The store; unset, SQLite in `HONED_HOME`. `postgresql+psycopg://...` is shared."
    )
    logging: Literal["all", "opt_in", "off"] = Field(
        default="all",
        description="Completions to remember: `all`, those that ask for it (`store: true`), or none.",
    )
    originals_key: SecretStr | None = Field(
        default=None, description="Keeps what is redacted, sealed with this Fernet key; unset, it is not kept."
    )
    retention_days: int = Field(default=0, ge=0, description="Age at which completions are erased; 0 keeps them.")
    journal_max_bytes: int = Field(
        default=2**30, ge=2**20, description="Disk that completions may take while the store does not answer."
    )
    max_queue: int = Field(
        default=512,
        ge=1,
        description="Choices that may wait for the engine; what exceeds them is refused with 503.",
    )
    max_body_bytes: int = Field(default=4 * 2**20, ge=1024, description="Largest request body, in bytes.")
    max_file_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="Largest request body that uploads a file, in bytes."
    )
    request_timeout_s: float = Field(
        default=600, gt=0, allow_inf_nan=False, description="Longest that one request may take, in seconds."
    )
    drain_timeout_s: float = Field(
        default=30,
        ge=0,
        allow_inf_nan=False,
        description="How long running answers may go on after SIGTERM, or hold up a promotion that needs their memory, "
        "in seconds.",
    )
    strict: bool = Field(
        default=False, description="Refuse parameters that nobody knows, instead of warning in a header."
    )
    max_batch_tokens: int = Field(
        default=0,
        ge=0,
        description="Most tokens a step, no fewer than sequences that run; 0 is 4096 on a GPU and 256 on a CPU.",
    )
    max_sequences: int = Field(
        default=0, ge=0, description="Most sequences that run at once; 0 is 256 on a GPU and 64 on a CPU."
    )
    kv_cache_gib: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Memory for a policy's keys and values, in GiB; 0 is a part of a GPU, or up to 4 of a computer's.",
    )
    max_policies: int = Field(
        default=2,
        ge=1,
        description="Policies that may be loaded at once, the one in service included; 1 gives it all memory.",
    )
    canary_shares: Annotated[tuple[int, ...], NoDecode] = Field(
        default=(1, 10, 50),
        description="Shares of the users, in per cent, through which a new policy goes before it is in service.",
    )
    canary_step_s: float = Field(
        default=3600,
        ge=0,
        allow_inf_nan=False,
        description="How long a new policy has a share before the next, in seconds.",
    )
    canary_min_answers: int = Field(
        default=20, ge=0, description="Answers that a new policy has given with a share before it gets the next."
    )
    max_model_len: int = Field(
        default=0,
        ge=0,
        description="Longest prompt and answer together, in tokens; 0 is the model's limit, or what the cache holds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages that are logged."
    )

    @field_validator("home")
    @classmethod
    def _written_out(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value

    @field_validator("canary_shares", mode="before")
    @classmethod
    def _split_numbers(cls, value: Any) -> Any:
        return tuple(int(share) for share in value.split(",")) if isinstance(value, str) else value

    @field_validator("canary_shares")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or not 0 < value[0] <= value[-1] < WHOLE_SHARE:
            raise ValueError("write ascending numbers from 1 to 99, separated by commas")
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_variables(cls, value: Any) -> Any:
        # pydantic-settings looks up the names that it knows; a misspelt one would be ignored in silence.
        known = [f"{ENV_PREFIX}{name.upper()}" for name in cls.model_fields]
        known += OTHERS
        for name in sorted(os.environ):
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
                close = difflib.get_close_matches(name.upper(), known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                raise ValueError(f"the environment variable {name} is unknown: {hint}")
        return value
