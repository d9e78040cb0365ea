"""The service's way from loading to ready or failed, and how much memory an engine gets."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from honed.models.policy import PolicyError
from honed.server.errors import EngineDead, Loading, ModelNotFound
from honed.server.health import Status
from honed.server.loading import load
from honed.server.metrics import Metrics
from honed.server.policies import Service
from honed.server.settings import Settings
from honed.server.storage import Storage


@contextmanager
def service_of(settings: Settings, home: Path) -> Iterator[Service]:
    """One that is not loaded yet, with a store under `home`."""
    storage = Storage(settings.model_copy(update={"home": home}))
    yield Service(settings, Metrics(), storage)
    storage.close()


def test_a_model_that_is_not_there_fails_with_a_reason(tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        assert service.health().status is Status.LOADING
        with pytest.raises(Loading):
            service.current()
        await service.load()
        health = service.health()
        assert health.status is Status.FAILED
        assert health.detail
        assert "nothing" in health.detail
        with pytest.raises(EngineDead):
            service.current()

    with service_of(Settings(model=str(tmp_path / "nothing")), tmp_path) as service:
        asyncio.run(scenario(service))


def test_a_fault_that_nobody_foresaw_does_not_leave_it_loading(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise MemoryError

    async def scenario(service: Service) -> None:
        monkeypatch.setattr("honed.server.loading.load_policy", explode)
        await service.load()
        assert service.health().status is Status.FAILED

    with service_of(Settings(model=str(tiny_checkpoint)), tmp_path) as service:
        asyncio.run(scenario(service))
    assert "MemoryError" in caplog.text


def test_names_of_the_policy_in_service(tiny_checkpoint: Path, tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        await service.load()
        async with service.leased("honed") as by_role, service.leased("tiny") as by_name:
            assert by_role is by_name is service.current()
            assert by_role.num_leases == 2
        assert by_role.num_leases == 0
        for lend in (service.leased("gpt-4"), service.answering("gpt-4", None)):
            with pytest.raises(ModelNotFound, match="'gpt-4' does not exist"):
                async with lend:
                    pass
        await service.close()
        assert service.health().status is Status.FAILED

    with service_of(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.001), tmp_path) as service:
        asyncio.run(scenario(service))


def test_a_cache_smaller_than_the_context_shortens_it(tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """256 bytes a token: 0.0001 GiB hold 416 of the context's 512 tokens."""
    assert load(Settings(model=str(tiny_checkpoint), dtype="float32", kv_cache_gib=0.0001)).context_length == 416
    assert "shortened from 512 to the 416 tokens" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "float32", "kv_cache_gib": 0.0001, "max_model_len": 417}, r"holds 416 tokens.*HONED_KV_CACHE_GIB"),
        ({"kv_cache_gib": 0.001, "max_model_len": 513}, r"HONED_MAX_MODEL_LEN is 513.*512 tokens"),
        ({"kv_cache_gib": 0.000001}, r"holds no token.*HONED_KV_CACHE_GIB"),
    ],
)
def test_a_context_that_cannot_be_had_is_refused(tiny_checkpoint: Path, settings: dict[str, float], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        load(Settings(model=str(tiny_checkpoint), **settings))  # type: ignore[arg-type]  # numbers, all of them


def test_a_shorter_context_fits_a_smaller_cache(tiny_checkpoint: Path, tmp_path: Path) -> None:
    async def scenario(service: Service) -> None:
        await service.load()
        assert service.current().context_length == 400
        await service.close()

    settings = Settings(model=str(tiny_checkpoint), kv_cache_gib=0.0001, max_model_len=400)
    with service_of(settings, tmp_path) as service:
        asyncio.run(scenario(service))


def test_every_running_sequence_gets_its_token_in_each_step(tiny_checkpoint: Path) -> None:
    loaded = load(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.001, max_sequences=300))
    assert loaded.engine.config.max_batch_tokens >= 300


def test_a_dead_engine_stays_failed_through_the_drain(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """So that the process, when it is told to end, ends with status 1."""

    async def scenario(service: Service) -> None:
        await service.load()
        await service.current().close()  # stands for death: the thread has ended
        await service.drain(1)
        assert service.health().status is Status.FAILED

    with service_of(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.001), tmp_path) as service:
        asyncio.run(scenario(service))
