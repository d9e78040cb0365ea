"""The page that a report is on: its style, and the few elements that it is made of.

Owns the HTML. Decides nothing about what is in a report (`report.py`). The page needs no network and no script, is dark
where the reader's system is, and can be printed. Invariant: every text but the arguments named `markup` is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #fdfefe; --ink: #1f2a35; --muted: #66727f; --grid: #e4e8ec;
  --blue: #0072b2; --orange: #d55e00; --green: #009e73; --pink: #cc79a7; --good: #007a59; --bad: #b94700;
  --soft: #eef2f5; }
@media (prefers-color-scheme: dark) { :root { --page: #12171c; --card: #1a2127; --ink: #e3e9ee; --muted: #94a1ad;
  --grid: #303a43; --blue: #56b4e9; --orange: #f0904a; --green: #3cc9a0; --pink: #dd9cc0; --good: #3cc9a0;
  --bad: #f0904a; --soft: #222b33; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.35rem, 1rem + 1.8vw, 2rem); line-height: 1.25; margin: .5rem 0 .75rem; max-width: 30em;
  text-wrap: balance; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 3rem 0 1rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 .75rem; }
.kicker { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; color: var(--muted); }
.state { border-radius: 1rem; padding: .05rem .7rem; font-size: .85rem; font-weight: 600; color: var(--page);
  background: var(--good); }
.state.stopped, .state.failed, .state.refused { background: var(--bad); }
.muted, figcaption p, .note { color: var(--muted); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.75rem 0; }
.tile, figure, .sample, .card { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; }
.tile { padding: .8rem 1rem; }
.tile dt { color: var(--muted); font-size: .85rem; }
.tile dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.3; overflow-wrap: anywhere; }
.tile dd.long { font-size: 1.05rem; }
.tile .note { font-size: .8rem; line-height: 1.35; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: 1rem 1.1rem .6rem; break-inside: avoid; display: flex; flex-direction: column; }
figcaption p { margin: .1rem 0 .6rem; line-height: 1.4; }
figure svg { display: block; width: 100%; height: auto; margin-top: auto; }
figure svg.low { margin: 0 0 auto; }
svg text { font-family: inherit; font-variant-numeric: tabular-nums; }
.sample { margin: 0 0 1rem; overflow: hidden; break-inside: avoid; }
.sample .text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem; overflow-y: auto;
  font-size: .95rem; }
.sample .prompt { padding: .8rem 1.1rem; background: var(--soft); font-weight: 550; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.side { padding: .7rem 1.1rem 1rem; border-top: 1px solid var(--grid); }
.side + .side { border-left: 1px solid var(--grid); }
.side header { display: flex; justify-content: space-between; gap: 1rem; color: var(--muted); font-size: .85rem;
  margin-bottom: .35rem; }
.up { color: var(--good); font-weight: 650; }
.down { color: var(--bad); font-weight: 650; }
.card { padding: .4rem 1.1rem; overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
td, th { text-align: left; vertical-align: top; padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--grid);
  overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; }
tr:last-child > td { border-bottom: 0; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.changed td { background: color-mix(in srgb, var(--blue) 9%, transparent); }
tr.changed td:first-child { box-shadow: inset 3px 0 var(--blue); padding-left: .7rem; font-weight: 600; }
td:first-child { padding-left: .7rem; width: 13rem; }
th:first-child { padding-left: .7rem; }
pre { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; padding: .9rem 1.1rem;
  margin: 0 0 1rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--muted); padding: .3rem 0; }
details[open] > summary { margin-bottom: .6rem; }
@media (max-width: 40rem) { main { padding: 1.5rem .9rem 3rem; } .side + .side { border-left: 0; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile dd { font-size: 1.25rem; } td .about { display: none; } }
@media print { :root { --page: #fff; --soft: #f4f6f8; } main { padding: 0; max-width: none; } h2 { break-after: avoid; }
  .sample .text { max-height: none; overflow: visible; } details::details-content { content-visibility: visible; }
  tr { break-inside: avoid; } .tile, .sample .prompt { print-color-adjust: exact; } }
""".strip()

_UNBROKEN: Final = "\u00a0%"  # a number and its sign stay on one line


def document(title: str, markup: str) -> str:
    """A whole page."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLE}\n</style>"
    )
    body = f"<body>\n<main>\n{markup}\n</main>\n</body>"
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


def section(title: str, markup: str) -> str:
    """A part of the page under its title."""
    return f"<section>\n<h2>{_text(title)}</h2>\n{markup}\n</section>"


def masthead(kicker: str, status: str, sentence: str, below: str) -> str:
    """What a reader sees first."""
    state = f'<span class="state {_text(status)}">{_text(status)}</span>'
    top = f'<div class="kicker">{state}<span>{_text(kicker)}</span></div>'
    said = _text(sentence).replace(" %", _UNBROKEN)
    return f'<header>{top}\n<h1>{said}</h1>\n<p class="muted">{_text(below)}</p></header>'


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Label, value and note of each number."""
    each = (
        f'<div class="tile"><dt>{_text(label)}</dt><dd{" class=long" * (len(value) > 14)}>{_text(value)}</dd>'
        f'<div class="note">{_text(note)}</div></div>'
        for label, value, note in rows
    )
    return f'<dl class="tiles">{"".join(each)}</dl>'


def figures(rows: Iterable[tuple[str, str, str]]) -> str:
    """Title, caption and SVG (which is markup) of each plot."""
    each = (
        f"<figure><figcaption><h3>{_text(title)}</h3><p>{_text(caption)}</p></figcaption>\n{markup}\n</figure>"
        for title, caption, markup in rows
    )
    return f'<div class="figures">{"".join(each)}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: Iterable[bool] = ()) -> str:
    """A table; `marked` says for each row whether it stands out. Without heads it has none."""
    marks = iter(marked)
    top = f"<tr>{''.join(f'<th>{_text(head)}</th>' for head in heads)}</tr>" if heads else ""
    lines = (f"<tr{' class=changed' * next(marks, False)}>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="card"><table>{top}{"".join(lines)}</table></div>'


def details(summary: str, markup: str) -> str:
    """What is folded away until somebody asks."""
    return f"<details><summary>{_text(summary)}</summary>\n{markup}\n</details>"


def paragraph(text: str) -> str:
    """A plain paragraph."""
    return f'<p class="muted">{_text(text)}</p>' if text else ""


def command(text: str) -> str:
    """What to type."""
    return f"<pre>{_text(text)}</pre>"


def side(title: str, text: str, score: str, *, change: float = 0.0) -> str:
    """One of the two answers of a sample; `change` colours its score."""
    way = "up" if change > 0 else "down" if change < 0 else ""
    head = f'<header><span>{_text(title)}</span><span class="{way}">{_text(score)}</span></header>'
    return f'<div class="side">{head}<div class="text" dir="auto">{_text(text)}</div></div>'


def sample(prompt: str, *markup: str) -> str:
    """A prompt and the `side`s of its answers."""
    top = f'<div class="prompt text" dir="auto">{_text(prompt)}</div>'
    return f'<article class="sample">{top}<div class="sides">{"".join(markup)}</div></article>'


def _cell(text: str) -> str:
    is_number = text[:1].isdigit() or text[:1] in {"−", "–"}
    return f"<td{' class=number' * (is_number and len(text) < 16)}>{_text(text)}</td>"


def _text(text: str) -> str:
    """Escaped, and without the characters that no page may hold."""
    return escape("".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else "�" for c in text))
