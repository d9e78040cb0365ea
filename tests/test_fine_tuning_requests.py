"""`POST /v1/fine_tuning/jobs` through the official client: what a worker is told, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fine_tuning_server
import httpx
import openai
import pytest
from conftest import LiveServer
from fine_tuning_server import ABSENT, client, create, payload, post, register, started, stored, upload
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from honed.server.store import jobs
from honed.server.store.database import reading, writing
from honed.server.store.snapshots import write_snapshot

pytestmark = pytest.mark.usefixtures("fake_engine")
server, api = fine_tuning_server.server, fine_tuning_server.api

INVALID = "invalid_request_error"
AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


def test_a_job_that_says_little_has_the_rest_filled_in(api: OpenAI, store: Engine) -> None:
    file_id = upload(api)
    job = create(api, training_file=file_id)
    FineTuningJob.model_validate(job.model_dump(), strict=True)
    assert (job.object, job.status, job.model) == ("fine_tuning.job", "queued", "fake")
    assert (job.training_file, job.validation_file) == (file_id, None)
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error) == (None, None, None, None)
    assert (job.organization_id, job.result_files, job.integrations) == ("honed", [], [])
    assert (job.estimated_finish, job.metadata) == (None, None)
    assert job.hyperparameters.model_dump() == AUTO
    assert job.method is not None
    assert job.method.model_dump(exclude_unset=True) == {"type": "supervised", "supervised": {"hyperparameters": AUTO}}
    assert job.id.startswith("ftjob-")
    assert api.fine_tuning.jobs.retrieve(job.id) == job
    assert payload(store, job.id) == {
        "model": "fake", "method": "supervised", "training_file": file_id, "validation_file": None,
        "hyperparameters": {}, "settings": {}, "suffix": None, "seed": job.seed, "metadata": {}, "reward_model": None,
    }  # fmt: skip
    assert (stored(store, job.id).kind, stored(store, job.id).state) == ("fine_tuning", "queued")
    assert create(api).seed != job.seed


def test_all_that_can_be_asked_for_reaches_the_worker(api: OpenAI, store: Engine) -> None:
    training = upload(api)
    job = create(
        api, training_file=training, validation_file=None, suffix="ours-1.0", seed=7, metadata={"team": "a b"},
        integrations=[],
        method={"type": "supervised", "supervised": {
            "hyperparameters": {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5},
            "settings": {"lora": True, "max_tokens": 64, "dtype": "float32", "kl_target": None},
        }},
    )  # fmt: skip
    assert (job.seed, job.metadata, job.training_file) == (7, {"team": "a b"}, training)
    assert job.hyperparameters.model_dump() == {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    told = payload(store, job.id)
    assert told["hyperparameters"] == {"n_epochs": 3, "learning_rate_multiplier": 0.5}
    assert told["settings"] == {"lora": True, "max_tokens": 64, "dtype": "float32", "kl_target": None}
    assert (told["suffix"], told["seed"], told["metadata"]) == ("ours-1.0", 7, {"team": "a b"})
    assert told["training_file"] == training


def test_hyperparameters_may_stand_where_they_stood_before_there_were_methods(api: OpenAI, store: Engine) -> None:
    job = create(api, hyperparameters={"n_epochs": 2, "batch_size": 256, "learning_rate_multiplier": "auto"})
    told = payload(store, job.id)
    assert (told["method"], told["hyperparameters"]) == ("supervised", {"n_epochs": 2, "batch_size": 256})
    assert job.method is not None
    assert job.method.supervised is not None


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_preferences_have_a_beta(api: OpenAI, store: Engine, kind: str) -> None:
    job = create(api, method={"type": kind, kind: {"hyperparameters": {"beta": 0.5, "n_epochs": 1}}})
    told = payload(store, job.id)
    assert (told["method"], told["hyperparameters"]) == (kind, {"beta": 0.5, "n_epochs": 1})
    shown = job.model_dump(exclude_unset=True)
    expected = {"hyperparameters": {**AUTO, "beta": 0.5, "n_epochs": 1}}
    assert shown["method"] == {"type": kind, kind: expected}
    assert payload(store, create(api, method={"type": kind}).id)["hyperparameters"] == {}


def test_a_reward_model_is_trained(api: OpenAI, store: Engine) -> None:
    job = create(api, method={"type": "reward", "reward": {"settings": {"margin": True}}})
    told = payload(store, job.id)
    assert (told["method"], told["settings"], told["reward_model"]) == ("reward", {"margin": True}, None)
    assert job.model_dump(exclude_unset=True)["method"] == {
        "type": "reward", "reward": {"hyperparameters": AUTO, "settings": {"margin": True}}
    }  # fmt: skip


def ppo(reward_model: str) -> dict[str, Any]:
    return {"type": "ppo", "ppo": {"reward_model": reward_model, "hyperparameters": {"batch_size": 8}}}


def reinforcement(reward_model: str) -> dict[str, Any]:
    hyperparameters = {"batch_size": 8, "n_epochs": "auto", "reasoning_effort": "default"}
    grader = {"type": "reward_model", "model": reward_model}
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


@pytest.mark.parametrize("method", [ppo, reinforcement])
def test_reinforcement_needs_a_reward_model(
    api: OpenAI, store: Engine, method: Callable[[str], dict[str, Any]]
) -> None:
    register(store, "policy")
    for name in ("nobody", "policy"):
        with pytest.raises(openai.BadRequestError, match="there is no such reward model") as refused:
            create(api, method=method(name))
        assert (refused.value.param, refused.value.code) == ("method", "invalid_value")
    register(store, "grader", "reward")
    job = create(api, method=method("grader"))
    assert payload(store, job.id) | {"seed": 0} == {
        "model": "fake", "method": "ppo", "training_file": "store:", "validation_file": None, "suffix": None,
        "hyperparameters": {"batch_size": 8}, "settings": {}, "seed": 0, "metadata": {}, "reward_model": "grader",
    }  # fmt: skip
    shown = job.model_dump(exclude_unset=True, warnings=False)["method"]  # the client has no such grader
    assert shown["type"] == "reinforcement"
    assert shown["reinforcement"]["grader"] == {"type": "reward_model", "model": "grader"}


def test_what_can_be_trained(server: LiveServer, api: OpenAI, store: Engine) -> None:
    register(store, "ft:tiny:ours:0123abcd")
    register(store, "judge", "reward")
    models = ["honed", "fake", "ft:tiny:ours:0123abcd"]
    assert [create(api, model=model).model for model in models] == ["fake", "fake", "ft:tiny:ours:0123abcd"]
    with pytest.raises(openai.NotFoundError) as unknown:
        create(api, model="gpt-4o-mini")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="it is a reward model") as refused:
        create(api, model="judge")
    assert refused.value.param == "model"


def test_a_folder_is_found_by_the_worker_and_not_shown(store_url: URL, tmp_path: Path, store: Engine) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with started(store_url, tmp_path, model=str(folder)) as server, client(server, "root") as api:
        job = create(api)
        assert (job.model, payload(store, job.id)["model"]) == ("mine", str(folder))
        register(store, "fake")
        assert payload(store, create(api).id)["model"] == "fake"


def test_snapshots_of_the_store(api: OpenAI, store: Engine) -> None:
    with writing(store) as connection:
        write_snapshot(connection, "data-1", "sft", {}, [])
    for name in ("store:", "store:data-1"):
        assert payload(store, create(api, training_file=name).id)["training_file"] == name


@pytest.mark.parametrize("name", ["file-none", "store:data-none", "data-1"])
def test_data_that_is_not_there_is_refused(api: OpenAI, store: Engine, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(api, training_file=name)
    assert (refused.value.code, refused.value.param) == ("invalid_file", "training_file")
    with reading(store) as connection:
        assert jobs.page(connection, "fine_tuning", limit=9) == []


def test_a_file_to_measure_on_is_shown_and_told_to_the_worker(api: OpenAI, store: Engine) -> None:
    training, validation = upload(api), upload(api)
    job = create(api, training_file=training, validation_file=validation)
    FineTuningJob.model_validate(job.model_dump(), strict=True)
    assert (job.training_file, job.validation_file) == (training, validation)
    assert api.fine_tuning.jobs.retrieve(job.id) == job
    assert payload(store, job.id)["validation_file"] == validation
    with pytest.raises(openai.BadRequestError) as refused:
        create(api, training_file=training, validation_file="file-none")
    assert (refused.value.code, refused.value.param) == ("invalid_file", "validation_file")
    with pytest.raises(openai.BadRequestError, match="a share is held out") as refused:
        create(api, training_file="store:", validation_file=validation)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "validation_file")


def test_an_admin_trains_on_everybodys_files(server: LiveServer, api: OpenAI) -> None:
    with client(server, "ann") as ann:
        file_id = upload(ann)
    assert create(api, training_file=file_id).training_file == file_id


SUPERVISED = "method.supervised"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": ABSENT}, "missing_required_parameter", "model"),
        ({"training_file": ABSENT}, "missing_required_parameter", "training_file"),
        ({"model": "a\0"}, "invalid_value", "model"),
        ({"training_file": 5}, "invalid_type", "training_file"),
        ({"training_file": "a\0"}, "invalid_value", "training_file"),
        ({"integrations": [{"type": "wandb"}]}, "unsupported_parameter", "integrations"),
        ({"validation_file": 5}, "invalid_type", "validation_file"),
        ({"validation_file": ""}, "string_below_min_length", "validation_file"),
        ({"validation_file": "file-1"}, "invalid_value", "validation_file"),
        ({"suffix": "x" * 65}, "string_above_max_length", "suffix"),
        ({"suffix": "../../x"}, "invalid_value", "suffix"),
        ({"suffix": ""}, "string_below_min_length", "suffix"),
        ({"seed": -1}, "integer_below_min_value", "seed"),
        ({"seed": 2**31}, "integer_above_max_value", "seed"),
        ({"metadata": {"a": 5}}, "invalid_type", "metadata.a"),
        ({"hyperparameters": {"n_epochs": 0}}, "integer_below_min_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 51}}, "integer_above_max_value", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "invalid_type", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": "many"}}, "invalid_value", "hyperparameters.batch_size"),
        ({"hyperparameters": {"batch_size": 257}}, "integer_above_max_value", "hyperparameters.batch_size"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 0}},
            "decimal_below_min_value",
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": {}, "method": {"type": "supervised"}}, "invalid_value", "hyperparameters"),
        ({"method": {}}, "missing_required_parameter", "method.type"),
        ({"method": {"type": "magic"}}, "invalid_value", "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "invalid_value", "method.dpo"),
        ({"method": {"type": "reinforcement"}}, "missing_required_parameter", "method.reinforcement"),
        ({"method": {"type": "ppo"}}, "missing_required_parameter", "method.ppo"),
        ({"method": {"type": "ppo", "ppo": {}}}, "missing_required_parameter", "method.ppo.reward_model"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
            "decimal_above_max_value",
            "method.dpo.hyperparameters.beta",
        ),
        (
            {"method": {"type": "ppo", "ppo": {"reward_model": "x", "hyperparameters": {"n_epochs": 2}}}},
            "unsupported_parameter",
            "method.ppo.hyperparameters.n_epochs",
        ),
        (
            {"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "python", "source": "x"}}}},
            "unsupported_value",
            "method.reinforcement.grader.type",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"settings": {"lora": [True]}}}},
            "invalid_type",
            f"{SUPERVISED}.settings.lora",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"settings": {"dtype": "\0"}}}},
            "invalid_value",
            f"{SUPERVISED}.settings.dtype",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"settings": {f"s{n}": n for n in range(65)}}}},
            "object_above_max_properties",
            f"{SUPERVISED}.settings",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"settings": []}}},
            "invalid_type",
            f"{SUPERVISED}.settings",
        ),
    ],
)
def test_bad_requests_are_refused_by_name(
    server: LiveServer, store: Engine, fields: dict[str, Any], code: str, param: str
) -> None:
    response = post(server, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"], error["param"]) == (400, INVALID, code, param)
    with reading(store) as connection:
        assert jobs.page(connection, "fine_tuning", limit=9) == []


def test_numbers_that_no_database_holds_are_refused(server: LiveServer) -> None:
    body = '{"model": "honed", "training_file": "store:", "method": {"type": "supervised", "supervised": %s}}'
    for details in ('{"settings": {"clip": 1e999}}', '{"hyperparameters": {"learning_rate_multiplier": 1e999}}'):
        response = httpx.post(
            f"{server.url}/v1/fine_tuning/jobs", content=body % details, headers={"authorization": "Bearer sk-root"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_value")


def test_unknown_keys_are_named_in_a_header(server: LiveServer) -> None:
    response = post(server, mood="good", method={"type": "supervised", "supervised": {"hyperparameters": {"x": 1}}})
    assert response.status_code == 200
    warning = "ignored unknown parameters: mood, method.supervised.hyperparameters.x"
    assert response.headers["x-honed-warning"] == warning
