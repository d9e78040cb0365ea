"""The load test: its arithmetic by hand, and what it says of peers that behave and that do not."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from openai_peer import Reply, answer, chunk, frame, free_port, refusal, serve
from typer.testing import CliRunner

from honed.clients.bench import bench
from honed.clients.load import Level, Load, Outcome, percentile, report

app = typer.Typer()
app.command("bench")(bench)

# A background job without a terminal ignores SIGINT, and so would its children.
RUN = (
    "import signal, typer; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from honed.clients.bench import bench; typer.run(bench)"
)


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 0, 7.0),
        ([7.0], 99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([5.0, 1.0, 3.0, 2.0, 4.0], 50, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 99, 4.0),
        ([4.0, 1.0, 3.0, 2.0], 75, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 76, 4.0),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 201)), 99, 198),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == expected


def test_a_report_by_hand() -> None:
    level = Level(
        2,
        outcomes=[
            Outcome((0.1, 0.2, 0.4), output_tokens=3, prompt_tokens=10),
            Outcome((0.3, 0.5), output_tokens=4, prompt_tokens=20),
            Outcome((0.9,), error="broke"),
        ],
        elapsed_s=2.0,
    )
    made = report("m", level)
    assert (made.requests, made.errors, made.first_error) == (3, 1, "broke")
    assert (made.output_tokens_per_s, made.total_tokens_per_s, made.requests_per_s) == (3.5, 18.5, 1.0)
    assert (made.ttft_p50_ms, made.ttft_p99_ms) == (100.0, 300.0)
    # Gaps of 100 and 200 ms; the other answer had two tokens a chunk, so its 200 ms are 100 a token.
    assert (made.itl_p50_ms, made.itl_p99_ms) == (100.0, 200.0)
    assert made.mean_output_tokens == 3.5


def test_what_was_not_measured_is_none() -> None:
    made = report("m", Level(1, outcomes=[Outcome(output_tokens=0)], elapsed_s=1.0))
    assert (made.ttft_p50_ms, made.itl_p50_ms, made.total_tokens_per_s) == (None, None, None)
    assert made.mean_output_tokens == 0.0
    assert report("m", Level(1, outcomes=[Outcome(error="x")], elapsed_s=1.0)).mean_output_tokens is None


def test_prompts_are_repeatable_and_share_only_what_was_asked_for() -> None:
    load = Load("u", "m", prompt_words=5, shared_prefix_words=8)
    assert load.prompt("1-0") == load.prompt("1-0") != load.prompt("1-1")
    assert load.prompt("1-0").split("\n")[0] == load.prompt("1-1").split("\n")[0]
    assert len(load.prompt("1-0").split("\n")[0].split()) == 8
    assert Load("u", "m", seed=1).prompt("1-0") != Load("u", "m", seed=2).prompt("1-0")


def test_every_level_is_measured_and_the_warm_up_is_not() -> None:
    with serve(lambda _: answer("a", "b", completion_tokens=2, prompt_tokens=7)) as peer:
        arguments = [peer.url, "--concurrency", "1,2", "--concurrency", "4", "--requests", "3", "--json", "-"]
        result = CliRunner().invoke(app, [*arguments, "--warmup", "2", "--api-key", "k"])
    assert result.exit_code == 0
    levels = lines(result.stdout)
    assert [(level["concurrency"], level["requests"]) for level in levels] == [(1, 3), (2, 3), (4, 4)]
    assert all(level["errors"] == 0 and level["mean_output_tokens"] == 2.0 for level in levels)
    assert all(float(str(level["total_tokens_per_s"])) > float(str(level["output_tokens_per_s"])) for level in levels)
    assert len(peer.requests) == 3 + 3 + 4 + 3 * 2
    assert len({request["messages"][0]["content"] for request in peer.requests}) == len(peer.requests)
    assert set(peer.keys) == {"Bearer k"}
    headings, rows = result.stderr.split("req/s")
    assert "clients" in headings
    assert [row.split()[:2] for row in rows.splitlines()[1:]] == [["1", "0"], ["2", "0"], ["4", "0"]]
    assert "…" not in result.stderr


def test_options_reach_the_request() -> None:
    with serve(lambda _: answer("a")) as peer:
        options = ["--model", "large", "--max-tokens", "9", "--temperature", "0.5", "--ignore-eos"]
        options += ["--prompt-words", "3", "--shared-prefix", "4"]
        result = CliRunner().invoke(app, [f"{peer.url}/v1", "--concurrency", "1", "--requests", "1", *options])
    assert result.exit_code == 0
    request = peer.requests[-1]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("large", 9, 0.5)
    assert request["ignore_eos"] is True
    assert len(request["messages"][0]["content"].split("\n")[0].split()) == 4


def test_several_tokens_in_a_chunk_are_counted_by_usage_and_no_usage_by_chunks() -> None:
    for count, expected in [(12, 12.0), (None, 2.0)]:
        reply = answer("a b c", "d e f", completion_tokens=count)
        with serve(lambda _, reply=reply: reply) as peer:
            result = CliRunner().invoke(app, [peer.url, "--concurrency", "1", "--requests", "2", "--json", "-"])
        (level,) = lines(result.stdout)
        assert level["mean_output_tokens"] == expected
        assert (level["total_tokens_per_s"] is None) == (count is None)


def test_a_peer_that_refuses_stream_options_is_measured_without() -> None:
    def reply(body: dict[str, object]) -> Reply:
        return refusal(422, "extra fields not permitted") if "stream_options" in body else answer("a", "b", "c")

    with serve(reply) as peer:
        result = CliRunner().invoke(app, [peer.url, "--concurrency", "2", "--requests", "4", "--json", "-"])
    assert result.exit_code == 0
    (level,) = lines(result.stdout)
    assert (level["errors"], level["mean_output_tokens"]) == (0, 3.0)
    assert not any("ignore_eos" in request for request in peer.requests)
    assert ["stream_options" in request for request in peer.requests] == [True] + [False] * 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (refusal(500, "engine died"), "engine died"),
        (Reply([frame(chunk("par"))]), "ended before the answer did"),
        (Reply([frame(chunk("par")), b'data: {"error": {"message": "evicted"}}\n\n']), "evicted"),
    ],
)
def test_failures_are_counted_and_are_the_exit_status(bad: Reply, message: str, tmp_path: Path) -> None:
    replies = iter([answer("warm"), answer("a"), bad, bad, answer("b")])
    path = tmp_path / "levels.jsonl"
    with serve(lambda _: next(replies)) as peer:
        arguments = [peer.url, "--concurrency", "1", "--requests", "4", "--json", str(path)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (level,) = lines(path.read_text())
    assert (level["requests"], level["errors"]) == (4, 2)
    assert message in str(level["first_error"])
    assert message in result.stderr


def test_no_server_and_bad_options_are_said() -> None:
    result = CliRunner().invoke(app, [f"127.0.0.1:{free_port()}"])
    assert result.exit_code == 1
    assert "is the server running? make serve" in result.stderr
    result = CliRunner().invoke(app, ["127.0.0.1", "--concurrency", "1,x"])
    assert result.exit_code == 2
    assert "no list of numbers" in result.stderr


def test_a_file_that_cannot_be_written_is_said_before_the_load(tmp_path: Path) -> None:
    with serve(lambda _: answer("a")) as peer:
        result = CliRunner().invoke(app, [peer.url, "--json", str(tmp_path)])
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr.replace("\n", "")
    assert peer.requests == []


def test_ctrl_c_prints_what_is_there() -> None:
    replies = iter([answer("warm"), answer("a"), answer("b")])
    stuck = threading.Event()

    def reply(_body: dict[str, object]) -> Reply:
        try:
            return next(replies)
        except StopIteration:
            stuck.set()
            return Reply([frame(chunk("so far"))], hangs=True)

    with serve(reply) as peer:
        command = [
            sys.executable,
            "-c",
            RUN,
            peer.url,
            "--concurrency",
            "1,4",
            "--requests",
            "9",
            "--json",
            "-",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert stuck.wait(30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    (level,) = lines(out)
    assert (level["concurrency"], level["requests"], level["errors"]) == (1, 2, 0)
    assert "interrupted" in err
