"""Medians of `honed bench --json` runs of several servers, as a Markdown table. Files are named after the servers."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

COLUMNS = ("output_tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")


def table(files: list[Path]) -> str:
    lines = [f"| clients | server | runs | {' | '.join(COLUMNS)} |", "|" + "---|" * (3 + len(COLUMNS))]
    runs: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        for line in file.read_text().splitlines():
            report = json.loads(line)
            if report["errors"]:
                raise SystemExit(f"{file.stem}: {report['errors']} requests failed: {report['first_error']}")
            runs[report["concurrency"], file.stem].append(report)
    for (clients, server), reports in sorted(runs.items(), key=lambda item: item[0][0]):
        values = [f"{median(report[column] for report in reports):.1f}" for column in COLUMNS]
        lines.append(f"| {clients} | {server} | {len(reports)} | {' | '.join(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([Path(name) for name in sys.argv[1:]]))
