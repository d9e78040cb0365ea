"""The plots of a run's report, each an inline SVG.

Owns how a plot looks. Knows nothing of runs or of HTML: `figures.py` says which plots a run has, `report.py` puts them
in a page. Text stays text in the SVG, in the page's font, and the colours are the page's variables (with themselves to
fall back on), so that a plot is dark where the page is. Uses matplotlib without pyplot, which would keep figures alive.
Invariant: the same numbers make the same bytes, and no text is read as markup or as TeX.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from honed.training.reports.numbers import number

Floats = NDArray[np.float64]

# Okabe and Ito's palette, which people see apart however they see colours, and greys. Each is a variable of the page.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
INK, MUTED, GRID, GROUND = "#1f2a35", "#66727f", "#e4e8ec", "#fdfefe"
VARIABLES: Final = {
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", PINK: "--pink",
    INK: "--ink", MUTED: "--muted", GRID: "--grid", GROUND: "--card",
}  # fmt: skip
_STYLE: Final[dict[Any, Any]] = {
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none", "svg.hashsalt": "honed", "text.parse_math": False, "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": GRID,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.linewidth": 1,
    "xtick.major.size": 0, "ytick.major.size": 0, "xtick.major.pad": 5, "ytick.major.pad": 5,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 1, "axes.axisbelow": True,
    "axes.unicode_minus": True, "lines.solid_capstyle": "round", "lines.solid_joinstyle": "round",
}  # fmt: skip
_WIDTH, _HEIGHT = 4.7, 2.75  # inches; 72 of the SVG's units each
_MOST_POINTS: Final = 1500  # of a line: a screen shows no more
_FEW: Final = 24  # points that are shown as such, and not smoothed


@dataclass(frozen=True, slots=True)
class Line:
    """A series over steps: `steps` and `values` of one length, NaN where a step has none."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str = BLUE


@dataclass(frozen=True, slots=True)
class Limit:
    """A value to compare a series with: a budget, chance."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A share, how many it was counted over, and whose it is."""

    label: str
    share: float
    count: int


def curves(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    unit: str = "",
    limits: Sequence[Limit] = (),
    is_share: bool = False,
) -> str:
    """Lines over steps, each with its label and last value at its end, a noisy one smoothed over its faint self.

    A limit far above all values is named at the edge rather than drawn: it would flatten the lines.
    """
    with rc_context(_STYLE):
        figure, axes = _canvas(right=0.75 if len(lines) > 1 else 0.86, unit=unit)
        shown = [_draw_line(axes, line, is_only=len(lines) == 1) for line in lines]
        _set_height(axes, lines, is_share=is_share)
        _draw_limits(axes, limits, max(max(ends, default=0.0) for ends in shown), is_share=is_share)
        ends = [(shown_[-1], line) for shown_, line in zip(shown, lines, strict=True) if shown_]
        _label_ends(axes, ends, with_names=len(lines) > 1, is_share=is_share)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, is_share=is_share)))
        beside: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "va": "top",
            "color": MUTED,
        }
        axes.annotate("step", (1, 0), (15, -5), **beside)
        return _svg(figure, name, title)


def calibration(name: str, title: str, points: Sequence[tuple[float, float, int]]) -> str:
    """How often a model is right, by how sure it is: (predicted, observed, pairs), against the diagonal.
    A point's area is its number of pairs; the bars are 95 % intervals (Wilson)."""
    with rc_context(_STYLE):
        figure, axes = _canvas(right=0.96, unit="share that it is right in", bottom=0.2)
        low = 0.5 if all(predicted >= 0.5 for predicted, _, _ in points) else 0.0
        axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        most = max(count for _, _, count in points)
        for predicted, observed, count in points:
            axes.plot([predicted] * 2, wilson(observed, count), color=BLUE, linewidth=1.4, alpha=0.45)
            area = 14 + 110 * count / most
            axes.scatter([predicted], [observed], s=area, color=BLUE, edgecolors=GROUND, linewidths=1, zorder=3)
        margin = 0.04 * (1 - low)
        axes.set(xlim=(low - margin, 1 + margin), ylim=(min(low, *(p[1] for p in points)) - margin, 1 + margin))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, is_share=True)))
        axes.set_xlabel("how sure the reward model is", loc="right")
        return _svg(figure, name, title)


def scatter(name: str, title: str, points: Sequence[tuple[float, float]], *, x_label: str, y_label: str) -> str:
    """Points, with the line of least squares and Pearson's correlation where there is one."""
    with rc_context(_STYLE):
        figure, axes = _canvas(right=0.96, unit=y_label, bottom=0.2)
        x, y = np.asarray(points, dtype=float).T
        axes.scatter(x, y, s=13, color=BLUE, alpha=0.4 if len(x) > 60 else 0.7, linewidths=0)
        if (r := correlation(points)) is not None:
            slope = r * y.std() / x.std()
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, y.mean() + slope * (ends - x.mean()), color=ORANGE, linewidth=2)
            axes.text(1, 1.03, f"r = {number(r, 2)}", color=ORANGE, ha="right", transform=axes.transAxes, weight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axes.set_xlabel(x_label, loc="right")
        return _svg(figure, name, title)


def bars(name: str, title: str, rows: Sequence[Bar], *, counted: str) -> str:
    """Shares as horizontal bars with 95 % intervals (Wilson) and a line at one half, which is chance."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.55 + 0.3 * len(rows)))
        height = figure.get_figheight()
        axes = figure.add_axes((0.3, 0.33 / height, 0.44, (height - 0.45) / height))
        places = np.arange(len(rows))[::-1]
        axes.barh(places, [row.share for row in rows], height=0.62, color=BLUE, alpha=0.85)
        for place, row in zip(places, rows, strict=True):
            axes.plot(wilson(row.share, row.count), [place] * 2, color=INK, linewidth=1.3)
            said = f"{100 * row.share:.0f} % of {number(row.count)} {counted}"
            axes.text(1.04, float(place), said, va="center", color=INK, size=9)
        axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(places, [_short(row.label) for row in rows], color=INK)
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set(xlim=(0, 1), ylim=(-0.55, len(rows) - 0.45))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, name, title).replace("<svg ", '<svg class="low" ', 1)


def histogram(name: str, title: str, values: Sequence[float], *, x_label: str, unit: str) -> str:
    """How many values are how large; those above 0 have the colour of what is better, and a line stands at 0."""
    with rc_context(_STYLE):
        figure, axes = _canvas(right=0.96, unit=unit, bottom=0.2)
        numbers = np.asarray(values, dtype=float)
        reach = float(np.abs(numbers).max()) or 1.0
        edges = np.linspace(-reach, reach, 2 * min(12, max(3, round(math.sqrt(len(numbers))))) + 1)
        counts, _ = np.histogram(numbers, edges)
        middles = (edges[1:] + edges[:-1]) / 2
        colors = [BLUE if middle > 0 else ORANGE for middle in middles]
        axes.bar(middles, counts, width=0.92 * (edges[1] - edges[0]), color=colors, alpha=0.85)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axes.set_xlabel(x_label, loc="right")
        return _svg(figure, name, title)


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share counted over `count` (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - reach, middle + reach


def correlation(points: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's; None where there are fewer than three points or one of the two never changes."""
    if len(points) < 3:
        return None
    x, y = np.asarray(points, dtype=float).T
    spread = float(x.std() * y.std())
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else None


def smoothed(values: Floats) -> Floats:
    """The mean around each value, a twelfth of the series to each side, weighted as a triangle and without NaN.

    Symmetric, unlike a running average: it does not lag behind what happened.
    """
    reach = max(2, len(values) // 12)
    kernel = 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    there = np.isfinite(values)
    sums = np.convolve(np.where(there, values, 0.0), kernel)[reach:-reach]
    weights = np.convolve(there.astype(float), kernel)[reach:-reach]
    means: Floats = np.full(len(values), np.nan)
    np.divide(sums, weights, out=means, where=weights > 0)
    return means


def is_noisy(values: Floats) -> bool:
    """Whether a series of some length turns round at more than every fifth of its values, as a schedule does not."""
    changes = np.diff(values[np.isfinite(values)])
    turns = np.count_nonzero(changes[1:] * changes[:-1] < 0)
    return len(values) >= _FEW and bool(turns > len(changes) / 5)


def _canvas(*, right: float, unit: str, bottom: float = 0.12) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    left = 0.1
    axes = figure.add_axes((left, bottom, right - left, 0.88 - bottom))
    figure.text(0.003, 0.95, unit, color=MUTED, va="center")
    return figure, axes


def _draw_line(axes: Axes, line: Line, *, is_only: bool) -> list[float]:
    """The finite values that the reader's eye follows."""
    steps, values = np.asarray(line.steps, dtype=float), np.asarray(line.values, dtype=float)
    stride = max(1, math.ceil(len(steps) / _MOST_POINTS))
    marker = "o" if len(steps) < _FEW else ""
    eased = values
    if is_noisy(values):
        eased = smoothed(values)
        axes.plot(steps[::stride], values[::stride], color=line.color, linewidth=0.8, alpha=0.28)
    axes.plot(steps[::stride], eased[::stride], color=line.color, linewidth=2, marker=marker, markersize=3.5)
    if is_only and len(steps) == 1:
        axes.margins(x=0.5)
    return [float(value) for value in eased[np.isfinite(eased)]]


def _set_height(axes: Axes, lines: Sequence[Line], *, is_share: bool) -> None:
    """From the least to the greatest value, with air; a share's axis stays within 0 and 1."""
    values = np.concatenate([np.asarray(line.values, dtype=float) for line in lines])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    air = 0.08 * (high - low) or max(abs(high) * 0.1, 1e-3)
    low, high = low - air if low < 0 or low - air > 0 else 0.0, high + air
    axes.set_ylim((max(low, 0.0), min(high, 1.02)) if is_share else (low, high))


def _draw_limits(axes: Axes, limits: Sequence[Limit], greatest: float, *, is_share: bool) -> None:
    for limit in limits:
        bottom, top = axes.get_ylim()
        if limit.value > 2.5 * max(greatest, 1e-9) and limit.value > top:
            said = f"{limit.label} {number(limit.value)} ↑"
            axes.text(1, 1.06, said, color=PINK, transform=axes.transAxes, ha="right", va="bottom")
            continue
        air = 0.1 * (top - bottom)
        axes.set_ylim(min(bottom, limit.value - air), max(top, limit.value + air))
        axes.axhline(limit.value, color=PINK, linewidth=1.2, linestyle=(0, (4, 3)))
        said = f"{limit.label} {_tick(limit.value, is_share=is_share)}"
        is_low = limit.value < (bottom + top) / 2  # the lines are above it: its name goes below
        axes.annotate(
            said,
            (1, limit.value),
            (0, -3 if is_low else 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=PINK,
            ha="right",
            va="top" if is_low else "bottom",
        )


def _label_ends(axes: Axes, ends: Sequence[tuple[float, Line]], *, with_names: bool, is_share: bool) -> None:
    """Each line's last value, and its name where there are several, moved apart where they would touch."""
    low, high = axes.get_ylim()
    apart = 0.085 * (high - low)
    height = -math.inf
    for value, line in sorted(ends, key=lambda end: end[0]):
        height = max(value, height + apart)
        said = _end(value, is_share=is_share)
        text = f"{line.label} {said}" if with_names else said
        axes.annotate(text, (1, height), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                      color=line.color, va="center", weight="bold", annotation_clip=False)  # fmt: skip


def _end(value: float, *, is_share: bool) -> str:
    return f"{100 * value:.1f} %" if is_share else number(value)


def _tick(value: float, *, is_share: bool = False) -> str:
    return f"{100 * value:.0f} %" if is_share else number(value, 6)


def _short(text: str, longest: int = 17) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an element of a page, its ids its own, its colours the page's."""
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw the text
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    end_of_style = text.index("</defs>") + len("</defs>")  # a style that would be the whole page's
    inside = text[end_of_style:]
    used = "|".join(sorted(set(re.findall(r"(?:url\(|href=\")#([\w-]+)", inside)))) or "none"
    for pattern, replacement in (
        (rf' id="(?!(?:{used})")[^"]*"', ""),
        (r"(url\(#|href=\"#| id=\")", rf"\1{name}-"),
        (r"font-family: [^;]*; | transform=\"rotate\(-0 [^\"]*\"", ""),
        (r"\s*\n\s*", "\n"),
    ):
        inside = re.sub(pattern, replacement, inside)
    for color, variable in VARIABLES.items():
        inside = inside.replace(f": {color}", f": var({variable}, {color})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(title)}">{inside.strip()}'
