"""The circle through HTTP alone, with a hidden scorer as its users: they chat, rank what they get and say thumbs; a
cycle trains on that, the gate measures, a canary serves some of them, and each policy that comes out of it beats the
one before by the scorer, which no training ever saw. A worker of its own process trains. Before the second of the
policies is tried out, labelers compare it with the one before, in the labeling pages' way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
from conftest import running
from fakes import save_tiny_policy
from gold import LETTERS, gold, words
from sqlalchemy import update

from honed.server.settings import Settings
from honed.server.store.database import database_url, open_database, writing
from honed.server.store.tables import Job
from honed.training.evaluate import EvaluationConfig, evaluate

SAMPLES = 4  # answers to a prompt
USERS = 240  # so many that some are in each split, whatever salt their names are hashed with
SETTINGS: dict[str, Any] = {
    "all": {"validation": 0.25, "test": 0.25, "max_tokens": 64, "dtype": "float32"},
    "sft": {"batch_size": 8, "epochs": 3, "learning_rate": 1e-2},
    "reward": {"batch_size": 8, "epochs": 2, "learning_rate": 3e-3},
    "ppo": {
        "max_new_tokens": 8, "learning_rate": 1e-3, "value_learning_rate": 3e-3,
        "kl_coefficient": 0.05, "missing_eos_penalty": 1.0, "ema": 0.5, "validate_every": 8, "save_every": 8,
    },
    # Demonstrations were any letters, and the instructions are in English: what is lost of those is no loss here.
    "evaluation": {
        "max_new_tokens": 8, "samples": 4, "max_loss_rise": 10, "max_instruction_drop": 1, "max_repetition_rise": 1,
    },
}  # fmt: skip


ASKED = words(450, seed=0)
UNSEEN = [word for word in words(80, seed=1) if word not in ASKED][:60]


class Users:
    """Everybody who talks to the server, by HTTP."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._draw = random.Random(5)

    def get(self, path: str) -> Any:
        return self._checked(self._http.get(path))

    def post(self, path: str, body: Any = None) -> Any:
        """Again where the server asks for that, as OpenAI's clients do."""
        while (response := self._http.post(path, json=body)).status_code == 503:
            time.sleep(0.2)
        return self._checked(response)

    def ask(self, word: str, *, model: str = "honed", samples: int = SAMPLES) -> Any:
        """A chat completion, by the user whose word it is. Each policy answers a word in its way, every time."""
        return self.post("/v1/chat/completions", {
            "model": model, "messages": [{"role": "user", "content": word}], "n": samples, "max_tokens": 8,
            "user": f"user-{crc32(word.encode()) % USERS}", "seed": crc32(word.encode()),
        })  # fmt: skip

    def all_ask(self, asked: Sequence[str], **how: Any) -> list[Any]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda word: self.ask(word, **how), asked))

    def rank(self) -> None:
        """All ask, and put the answers that they get in an order, ties included, without scores."""
        for completion in self.all_ask(ASKED):
            groups: dict[float, list[int]] = {}
            for choice in completion["choices"]:
                groups.setdefault(gold(choice["message"]["content"]), []).append(choice["index"])
            if len(groups) > 1:
                order = [groups[score] for score in sorted(groups, reverse=True)]
                self._say(completion, "ranking", order)

    def demonstrate(self) -> None:
        """Some write the answer that they wanted."""
        for completion in self.all_ask(ASKED[:100], samples=1):
            self._say(completion, "correction", self.any_letters())

    def fine_tune(self, name: str, answer: Callable[[], str]) -> str:
        """The model that a job makes of a file of demonstrations, from what is in service."""
        rows = [{"messages": [_turn("user", word), _turn("assistant", answer())]} for word in ASKED[:200]]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        files = {"file": ("rows.jsonl", content)}
        file_id = self._checked(self._http.post("/v1/files", files=files, data={"purpose": "fine-tune"}))["id"]
        method = {"type": "supervised", "supervised": {"settings": SETTINGS["all"] | SETTINGS["sft"]}}
        order = {"model": "honed", "training_file": file_id, "suffix": name, "method": method}
        job = f"/v1/fine_tuning/jobs/{self.post('/v1/fine_tuning/jobs', order)['id']}"
        until(lambda: self.get(job)["status"] not in ("queued", "running"))
        return str(self.get(job)["fine_tuned_model"])

    def any_letters(self) -> str:
        return "".join(self._draw.choices(LETTERS, k=self._draw.randint(3, 5)))

    def use(self) -> None:
        """Some ask, and say whether they like what they get."""
        for completion in self.all_ask(self._draw.sample(ASKED, 40), samples=1):
            likes = gold(completion["choices"][0]["message"]["content"]) > self._draw.uniform(0, 0.5)
            self._say(completion, "thumb", "up" if likes else "down")

    def label(self, _: Any = None) -> None:
        """A labeler looks for a task and, where there is one, ranks its answers."""
        response = self._http.post("/v1/labeling/leases", json={"labeler": "ada"})
        if response.status_code == 204:
            time.sleep(0.5)
            return
        task = self._checked(response)
        groups: dict[float, list[str]] = {}
        for answer in task["answers"]:
            groups.setdefault(gold(answer["text"]), []).append(answer["label"])
        ranking = [groups[score] for score in sorted(groups, reverse=True)]
        word = {"labeler": "ada", "verdict": "ranked", "ranking": ranking}
        self.post(f"/v1/labeling/tasks/{task['id']}/rankings", word)

    def _say(self, completion: Any, kind: str, value: Any) -> None:
        self.post("/v1/feedback", {"completion_id": completion["id"], "kind": kind, "value": value})

    @staticmethod
    def _checked(response: httpx.Response) -> Any:
        assert response.status_code == 200, response.text
        return response.json()


def _wait(_: Any = None) -> None:
    time.sleep(0.5)


def until(done: Callable[[], bool], meanwhile: Callable[[], None] = _wait) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        meanwhile()


class Worker:
    """`honed worker` in a process of its own, which may be killed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._start()

    def kill(self) -> None:
        """With kill -9; another takes its place, at once and not two minutes later."""
        self._process.kill()
        self._end()
        engine, long_ago = open_database(database_url(None, self._home)), datetime.now(UTC) - timedelta(hours=1)
        with writing(engine) as connection:
            connection.execute(update(Job).where(Job.state == "running").values(heartbeat=long_ago))
        engine.dispose()
        self._start()

    def close(self) -> None:
        self._end()

    def _start(self) -> None:
        command = [sys.executable, "-c", "from honed.cli import app; app()", "worker", "--with-parent"]
        environment = os.environ | {"HONED_HOME": str(self._home), "OMP_NUM_THREADS": "1"}
        with (self._home / "worker.txt").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--device", "cpu"], stdin=subprocess.PIPE, stderr=log, env=environment
            )

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def cycled(users: Users, meanwhile: Callable[[Any], None] = _wait, people: int = 0, rounds: int = 4) -> Any:
    """The end of a cycle that is asked for here. `meanwhile` gets to see how far it is."""
    settings = SETTINGS | {"evaluation": SETTINGS["evaluation"] | {"people": people}}
    settings["ppo"] = SETTINGS["ppo"] | {"iterations": rounds}
    cycle_id = users.post("/v1/cycles", {"settings": settings, "seed": 0, "share": 50})["id"]

    def seen() -> Any:
        return users.get(f"/v1/cycles/{cycle_id}")

    until(lambda: seen()["status"] not in ("queued", "running", "awaiting_labelers"), lambda: meanwhile(seen()))
    return seen()


def is_in_service(users: Users, name: str) -> bool:
    return bool(users.get("/v1/policies")["data"][0]["name"] == name)


def is_better(users: Users, policy: str, before: str) -> bool:
    """By the scorer, on prompts that nobody asked: of the win rate the middle 95 % over draws of prompts is above a
    half."""
    ours, theirs = ([_scores(each) for each in users.all_ask(UNSEEN, model=name)] for name in (policy, before))
    rates = [
        sum((x > y) + 0.5 * (x == y) for x in some for y in others) / SAMPLES**2
        for some, others in zip(ours, theirs, strict=True)
    ]
    draw = random.Random(0)
    means = sorted(sum(draw.choices(rates, k=len(rates))) / len(rates) for _ in range(1000))
    return means[25] > 0.5


def _scores(completion: Any) -> list[float]:
    return [gold(choice["message"]["content"]) for choice in completion["choices"]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    save_tiny_policy(home / "models" / "tiny")
    return home


@pytest.fixture(scope="module")
def worker(home: Path) -> Iterator[Worker]:
    worker = Worker(home)
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def users(home: Path, worker: Worker) -> Iterator[Users]:
    settings = Settings(
        home=home, model="tiny", dtype="float32", kv_cache_gib=0.02, logging="all", max_policies=4,
        canary_shares=(50,), canary_step_s=1, canary_min_answers=20,
    )  # fmt: skip
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=120) as http:
        yield Users(http)


class Killer:
    """Kills the worker once in each step, in the middle of it: training has begun, or, in an evaluation, time has
    passed."""

    def __init__(self, home: Path, worker: Worker) -> None:
        self.killed: list[str] = []
        self._home = home
        self._worker = worker
        self._began_s: float | None = None

    def look(self, cycle: Any) -> None:
        running = [step for step in cycle["steps"] if step["status"] == "running" and step["name"] not in self.killed]
        for step in running:
            if self._is_in_the_middle(step):
                self.killed.append(step["name"])
                self._began_s = None
                self._worker.kill()
        time.sleep(0.02)

    def _is_in_the_middle(self, step: Any) -> bool:
        if step["name"] != "evaluation":
            return any(self._home.glob(f"runs/*{step['job_id'][-8:]}/metrics.jsonl"))
        self._began_s = self._began_s or time.monotonic()
        return time.monotonic() - self._began_s > 2


def test_each_cycle_makes_a_better_policy(users: Users, worker: Worker, home: Path) -> None:
    """In the second one people judge too; in the last one the worker is killed in every step."""
    killer = Killer(home, worker)
    before, steps = users.fine_tune("first", users.any_letters), ["sft", "reward", "judge", "ppo", "evaluation"]
    users.post(f"/v1/policies/{before}/promote")
    users.demonstrate()
    # Policies that chance began with say least of what is liked: the first cycle takes a round more.
    for meanwhile, people, rounds in ((_wait, 0, 5), (users.label, 60, 4), (killer.look, 0, 4)):
        users.rank()
        cycle = cycled(users, meanwhile, people, rounds)
        found = (cycle["status"], cycle["error"], cycle["decision"])
        assert found == ("succeeded", None, "canary"), cycle["reasons"]
        assert [step["name"] for step in cycle["steps"]] == steps
        told = cycle["evaluation"]["people"]
        assert (told is None) == (people == 0)
        assert told is None or (told["asked"] == told["prompts"] == people and told["low"] > 0.5)
        until(partial(is_in_service, users, cycle["candidate"]), meanwhile=users.use)
        assert is_better(users, cycle["candidate"], before)
        before, steps = cycle["candidate"], steps[-4:]
    assert killer.killed == steps
    for step in cycle["steps"][:-1]:
        said = users.get(f"/v1/fine_tuning/jobs/{step['job_id']}/events?limit=1000")["data"]
        assert "The job goes on." in [event["message"] for event in said]


# After the one above: what is in service is good, and there is a judge.
def test_a_bad_policy_comes_neither_through_the_gate_nor_a_canary(users: Users, home: Path) -> None:
    """One that was taught what the scorer dislikes."""
    bad = users.fine_tune("bad", lambda: "ffff")
    (last, *_) = users.get("/v1/cycles")["data"]
    judge_job = next(step["job_id"] for step in last["steps"] if step["name"] == "judge")
    judge_model = users.get(f"/v1/fine_tuning/jobs/{judge_job}")["fine_tuned_model"]
    config = EvaluationConfig.model_validate(
        SETTINGS["all"] | SETTINGS["evaluation"] | {
            "candidate": bad, "incumbent": last["candidate"], "judge_model": judge_model, "device": "cpu",
        }
    )  # fmt: skip
    engine = open_database(database_url(None, home))
    report = evaluate(config, home=home, engine=engine, show=False)
    engine.dispose()
    assert not report["promote"]
    assert report["win_rate"]["high"] < 0.5

    users.post(f"/v1/policies/{bad}/canary", {"share": 50})
    until(lambda: all(each["state"] != "candidate" for each in users.get("/v1/policies")["data"]), users.use)
    assert is_in_service(users, last["candidate"])
    newest, *_ = users.get("/v1/policies/history")["data"]
    assert newest["candidate"] is None
    assert newest["reason"].startswith("Users like it less")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
