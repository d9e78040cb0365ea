"""Settings: defaults, the environment, and what is refused."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from honed.server.settings import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("HONED_"):
            monkeypatch.delenv(name)


def test_defaults_serve_this_machine_only() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.api_keys) == ("127.0.0.1", 8000, ())
    assert settings.model == "smollm2-135m-instruct"
    assert settings.home is None


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "home": "/tmp/x", "host": "0.0.0.0", "port": "1", "model": "m", "dtype": "float32",
        "device": "cuda:1", "api_keys": "a, b,,", "api_keys_file": "/tmp/k", "max_queue": "2",
        "max_body_bytes": "2048", "max_file_bytes": "2049",
        "request_timeout_s": "3.5", "drain_timeout_s": "0", "strict": "true", "max_batch_tokens": "4",
        "database_url": "postgresql://x", "logging": "off", "originals_key": "k", "retention_days": "7",
        "journal_max_bytes": "1048576",
        "max_sequences": "5", "kv_cache_gib": "1.5", "max_policies": "3",
        "canary_shares": "5,20", "canary_step_s": "60", "canary_min_answers": "7",
        "max_model_len": "6", "log_level": "debug",
    }  # fmt: skip
    assert set(values) == set(Settings.model_fields)
    for name, value in values.items():
        monkeypatch.setenv(f"HONED_{name.upper()}", value)
    settings, defaults = Settings(), {name: field.default for name, field in Settings.model_fields.items()}
    assert all(getattr(settings, name) != defaults[name] for name in values)
    assert [key.get_secret_value() for key in settings.api_keys] == ["a", "b"]
    assert settings.home == Path("/tmp/x")
    assert settings.canary_shares == (5, 20)


@pytest.mark.parametrize("shares", ["", "0,10", "10,10", "10,5", "10,100", "ten"])
def test_shares_of_a_canary_ascend(shares: str) -> None:
    with pytest.raises(ValidationError):
        Settings(canary_shares=shares)  # type: ignore[arg-type]  # as from the environment


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_PORT", "1")
    assert Settings().port == 1
    assert Settings(port=2).port == 2


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_PORT", "")
    assert Settings().port == 8000


def test_a_misspelt_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_APIKEYS", "sk-secret")
    with pytest.raises(ValidationError, match="HONED_APIKEYS is unknown: did you mean HONED_API_KEYS") as refused:
        Settings()
    assert "sk-secret" not in str(refused.value)


def test_the_clients_key_may_stand_beside_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONED_API_KEY", "sk-secret")
    assert Settings().api_keys == ()


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Settings(colour="red")  # type: ignore[call-arg]  # that it is unknown is the point


@pytest.mark.parametrize(
    "values",
    [
        {"port": 65536}, {"dtype": "int3"}, {"device": "tpu"}, {"max_queue": 0}, {"request_timeout_s": 0},
        {"request_timeout_s": float("inf")}, {"kv_cache_gib": -1}, {"log_level": "loud"}, {"host": ""},
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        Settings(**values)  # type: ignore[arg-type]  # wrong on purpose


def test_settings_are_frozen_and_hide_keys() -> None:
    settings = Settings(api_keys=(SecretStr("sk-secret"),))
    assert "sk-secret" not in repr(settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # that it is frozen is the point


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_home_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `honed serve` and `honed pull` mean the same folder."""
    monkeypatch.setenv("HOME", "/somebody")
    assert Settings(home=Path("~/x")).home == Path("/somebody/x")
