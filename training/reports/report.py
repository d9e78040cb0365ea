"""report.html in a run's folder: what came of the run, for a person, in one file that needs nothing else.

Owns what is in the report and in which order. The words are `findings.py`'s, the plots `figures.py`'s, the HTML
`page.py`'s. Invariants: the same folder makes the same bytes; a report is there whole or not at all; what a run did not
measure is left out.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from honed.training.configs import CONFIGS
from honed.training.reports import page
from honed.training.reports.figures import panels
from honed.training.reports.findings import Results, headline, key_numbers, read_results, start_and_end
from honed.training.reports.numbers import amount, duration, group, metric, number, said

REPORT_FILE: Final = "report.html"
_MOST_SAMPLES, _OPEN_SAMPLES = 40, 6
_MOST_CHARS: Final = 6000
_STAGES: Final = {"sft": "SFT", "reward": "reward model", "ppo": "PPO", "dpo": "DPO", "kto": "KTO"}


def write_report(folder: Path) -> Path:
    """Writes what the folder's run.json, metrics.jsonl, evaluation.json and samples.jsonl say; the last three may be
    missing. Raises FileNotFoundError without run.json, ValueError where one of them is damaged."""
    results = read_results(folder)
    parts = [
        _masthead(results),
        _numbers(results),
        *_plots(results),
        _samples(results),
        _data(results),
        _settings(results),
        _again(results),
    ]
    text = page.document(f"{results.facts.get('name', folder.name)}: report", "\n".join(part for part in parts if part))
    partial = folder / f".{REPORT_FILE}.partial"
    partial.write_text(text, encoding="utf-8")
    return partial.replace(folder / REPORT_FILE)


def summary_lines(folder: Path) -> list[str]:
    """The few lines that the command ends with. Raises as `write_report` does."""
    results = read_results(folder)
    rows = [
        (each.label, f"{each.value}  ({each.note})" if each.note else each.value) for each in key_numbers(results)[:6]
    ]
    rows += [("Took", duration(_seconds(results)))] if _seconds(results) else []
    rows += (
        [("Checkpoint", str(results.facts["checkpoint"]))]
        if results.facts.get("checkpoint") and results.facts.get("status") != "failed"
        else []
    )
    rows += [("Report", str(folder / REPORT_FILE))] if (folder / REPORT_FILE).is_file() else []
    width = max((len(label) for label, _ in rows), default=0)
    return [headline(results), *(f"  {label:{width}}  {value}" for label, value in rows)]


def _masthead(results: Results) -> str:
    facts = results.facts
    stage = _STAGES.get(facts.get("stage", ""), str(facts.get("stage", "")))
    made = [str(facts[key]) for key in ("parent", "checkpoint") if facts.get(key)]
    below = [
        " → ".join(made),
        f"{amount(facts['parameters'])} parameters" if facts.get("parameters") else "",
        str(facts.get("hardware") or ""),
        f"{number(results.metrics[-1]['step'])} steps" if results.metrics else "",
        f"{amount(results.metrics[-1]['tokens'])} tokens"
        if results.metrics and results.metrics[-1].get("tokens")
        else "",
        duration(_seconds(results)) if _seconds(results) else "",
        _day(facts.get("started")),
    ]
    kicker = f"{stage} · {facts.get('name', '')}"
    return page.masthead(
        kicker, str(facts.get("status", "")), headline(results), " · ".join(one for one in below if one)
    )


def _numbers(results: Results) -> str:
    return page.tiles((each.label, each.value, each.note) for each in key_numbers(results))


def _plots(results: Results) -> list[str]:
    drawn = panels(results)
    first = [(panel.title, panel.caption, panel.svg) for panel in drawn if not panel.is_detail]
    rest = [(panel.title, panel.caption, panel.svg) for panel in drawn if panel.is_detail]
    markup = page.figures(first) if first else ""
    markup += page.details(f"{len(rest)} more plots", page.figures(rest)) if rest else ""
    rows = [
        (f"{group(name)} {metric(name).label}".strip(), said(name, ends[0]), said(name, ends[1]), metric(name).unit)
        for name in sorted({name for line in results.metrics for name in line} - {"step", "tokens", "seconds"})
        if (ends := start_and_end(results.metrics, name))
    ]
    markup += page.details("All metrics as numbers", page.table(("", "start", "end", ""), rows)) if rows else ""
    left = {key: value for key, value in results.evaluation.items() if key not in _PLOTTED}
    markup += page.details("All that was measured at the end", page.table((), _flat(left))) if left else ""
    return [page.section("How it went", markup)] if markup else []


_PLOTTED: Final = {"calibration", "by_labeler", "by_source", "reward_by_length"}


def _samples(results: Results) -> str:
    if not results.samples:
        return ""
    shown = [_sample(each) for each in results.samples[:_MOST_SAMPLES]]
    markup = "".join(shown[:_OPEN_SAMPLES])
    if rest := shown[_OPEN_SAMPLES:]:
        markup += page.details(f"{len(rest)} more", "".join(rest))
    if (left := len(results.samples) - len(shown)) > 0:
        markup += page.paragraph(f"{number(left)} more are in samples.jsonl.")
    return page.section("The same prompts before and after", markup)


def _sample(each: Mapping[str, Any]) -> str:
    before, after = each.get("score_before"), each.get("score_after")
    change = after - before if before is not None and after is not None else 0.0
    sides = (("Before", "before", before, 0.0), ("After", "after", after, change))
    markup = [
        page.side(title, _cut(each.get(key) or ""), _score(each.get(key) or "", score), change=way)
        for title, key, score, way in sides
    ]
    return page.sample(_cut(each.get("prompt") or ""), *markup)


def _score(text: str, score: float | None) -> str:
    size = f"{number(len(text))} characters"
    return size if score is None else f"{size} · score {said('score', score)}"


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= _MOST_CHARS
        else f"{text[:_MOST_CHARS]}… ({number(len(text) - _MOST_CHARS)} more characters)"
    )


def _data(results: Results) -> str:
    card = results.facts.get("dataset")
    return page.section("Data", page.table((), _flat(card))) if card else ""


def _settings(results: Results) -> str:
    settings: Mapping[str, Any] = results.facts.get("settings") or {}
    if not settings:
        return ""
    defaults, about = results.facts.get("defaults") or {}, _descriptions(results.facts.get("stage"))
    changed = _changed(results)
    rows = {
        name: (name, _json(value), _json(defaults[name]) if name in defaults else "", about.get(name, ""))
        for name, value in settings.items()
    }
    heads = ("setting", "value", "default", "")
    ours = page.table(heads, [rows[name] for name in changed], [True] * len(changed)) if changed else ""
    everything = page.table(heads, rows.values(), [name in changed for name in rows])
    words = "Those that differ from the defaults:" if changed else "All are the defaults."
    return page.section(
        "Settings", page.paragraph(words) + ours + page.details(f"All {len(rows)} settings", everything)
    )


def _again(results: Results) -> str:
    """The command that repeats the run, on the same rows: those of the store by their snapshot's id."""
    settings: Mapping[str, Any] = results.facts.get("settings") or {}
    card: Mapping[str, Any] = results.facts.get("dataset") or {}
    given = {name: settings[name] for name in _changed(results) if name != "resume"}
    if (card.get("source") or {}).get("kind") == "store":
        given["data"] = card["id"]
    words = ["honed", "train", str(results.facts.get("stage", ""))]
    lines = [
        shlex.join(words),
        *(shlex.join(_option(name, value)) for name, value in given.items() if value is not None),
    ]
    note = "The same seed, settings and data give the same model on the same kind of machine with the same versions."
    return page.section("How to do it again", page.command(" \\\n    ".join(lines)) + page.paragraph(note))


def _option(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [f"--{flag}", ",".join(str(each) for each in value)]
    return [f"--{flag}", str(value)]


def _changed(results: Results) -> list[str]:
    settings, defaults = results.facts.get("settings") or {}, results.facts.get("defaults") or {}
    return [name for name, value in settings.items() if name not in defaults or defaults[name] != value]


def _descriptions(stage: object) -> dict[str, str]:
    config = next((config for name, config in CONFIGS.items() if name == stage), None)
    fields = config.model_fields if config else {}
    return {name: field.description or "" for name, field in fields.items()}


def _flat(card: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Names and values; an object of plain values is one row, one of objects a row each."""
    rows: list[tuple[str, str]] = []
    for key, value in card.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping) and not any(isinstance(each, Mapping) for each in value.values()):
            rows.append((name, " · ".join(f"{label} {_json(each)}" for label, each in value.items()) or "–"))
        elif isinstance(value, Mapping):
            rows += _flat(value, f"{name}: ")
        else:
            rows.append((name, _json(value)))
    return rows


def _json(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float):
        return number(value, 4)
    if isinstance(value, Sequence):
        return ", ".join(_json(each) for each in value)
    return json.dumps(value, ensure_ascii=False)


def _seconds(results: Results) -> float:
    return float(results.metrics[-1]["seconds"]) if results.metrics else 0.0


def _day(moment: object) -> str:
    return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M") if isinstance(moment, str) else ""
