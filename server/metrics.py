"""Prometheus metrics of one server: vLLM's names where it has one, so that existing dashboards work.

Owns the registry. Updated on the event loop only. Source of the names: vLLM's documentation, "Metrics".
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from honed.models.engine.engine import EngineStats
from honed.server.recording import StoreHealth
from honed.server.store.pairs import Verdicts
from honed.server.store.thumbs import Thumbs
from honed.server.store.writer import Report

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        label = ["model_name"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, label, registry=self.registry)

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, [*label, *more], registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, label, buckets=_SECONDS, registry=self.registry)

        self._running = gauge("vllm:num_requests_running", "Sequences in the running batch.")
        self._waiting = gauge("vllm:num_requests_waiting", "Sequences that wait for room.")
        self._cache = gauge("vllm:kv_cache_usage_perc", "Share of the key/value cache in use, 0 to 1.")
        self._preemptions = counter("vllm:num_preemptions", "Sequences that gave up their memory for a while.")
        self._seen_preemptions: dict[str, int] = {}
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of admitted requests.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens sampled.")
        self.prefix_queries = counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self.prefix_hits = counter("vllm:prefix_cache_hits", "Prompt tokens found in the cache.")
        self.finished = counter("vllm:request_success", "Sequences that ended, by reason.", "finished_reason")
        self.first_token_s = histogram("vllm:time_to_first_token_seconds", "From the request to its first token.")
        self.next_token_s = histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.")
        self.request_s = histogram("vllm:e2e_request_latency_seconds", "From the request to its last token.")
        self._errors = Counter(
            "honed_error_responses", "Requests answered with an error.", ["code"], registry=self.registry
        )

        self._store_up = Gauge("honed_store_up", "Whether the store takes completions.", registry=self.registry)
        self._pending = Gauge("honed_store_pending", "Completions on their way to the store.", registry=self.registry)
        self._journal = Gauge("honed_journal_bytes", "Completions that wait on the disk.", registry=self.registry)
        self.stored = Counter("honed_stored_completions", "Completions stored.", registry=self.registry)
        self._lost = Counter(
            "honed_lost_completions", "Completions not stored, by reason.", ["reason"], registry=self.registry
        )
        self._redactions = Counter(
            "honed_redactions", "Personal data redacted, by kind.", ["kind"], registry=self.registry
        )
        self._dropped = 0
        self._thumbs = Gauge(
            "honed_policy_thumbs",
            "Thumbs that count, by the policy whose answers they are on.",
            ["policy", "direction"],
            registry=self.registry,
        )
        self._verdicts = Gauge(
            "honed_policy_shadow_rankings",
            "Labelers' rankings of what a policy answered in the shadow of another.",
            ["policy", "rival", "outcome"],
            registry=self.registry,
        )
        self.shadows = Counter(
            "honed_shadows",
            "Requests that a candidate was to answer unseen, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.feedback = Counter("honed_feedback", "Feedback taken, by kind.", ["kind"], registry=self.registry)

    def observe_store(self, health: StoreHealth) -> None:
        self._store_up.set(health.state == "up")
        self._pending.set(health.pending)
        self._journal.set(health.journal_bytes)
        self._lost.labels("full").inc(health.dropped - self._dropped)
        self._dropped = health.dropped

    def observe_thumbs(self, thumbs: Mapping[str, Thumbs]) -> None:
        """By policy's name."""
        for name, counted in thumbs.items():
            self._thumbs.labels(name, "up").set(counted.up)
            self._thumbs.labels(name, "down").set(counted.down)

    def observe_verdicts(self, verdicts: Mapping[tuple[str, str], Verdicts]) -> None:
        """By the names of the policy and of its rival."""
        for names, counted in verdicts.items():
            for outcome, many in (("win", counted.wins), ("tie", counted.ties), ("loss", counted.losses)):
                self._verdicts.labels(*names, outcome).set(many)

    def count_stored(self, report: Report) -> None:
        self.stored.inc(report.completions)
        self._lost.labels("erased").inc(report.dropped)
        self._lost.labels("rejected").inc(report.rejected)
        for kind, count in report.redactions.items():
            self._redactions.labels(kind).inc(count)

    def observe(self, model: str, stats: EngineStats) -> None:
        self._running.labels(model).set(stats.running)
        self._waiting.labels(model).set(stats.waiting)
        self._cache.labels(model).set(stats.cache_usage)
        new = stats.preemptions - self._seen_preemptions.get(model, 0)
        if new > 0:
            self._preemptions.labels(model).inc(new)
        self._seen_preemptions[model] = stats.preemptions

    def forget(self, model: str) -> None:
        """Of a policy whose engine is gone: what is measured of it goes too, what was counted stays."""
        for gauge in (self._running, self._waiting, self._cache):
            gauge.remove(model)
        self._seen_preemptions.pop(model, None)

    def count_error(self, code: str) -> None:
        self._errors.labels(code).inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)
