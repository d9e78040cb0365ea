"""`honed score`: what a reward model thinks of answers in a file.

Owns how it is asked for and written; the scores are `training/scoring.py`'s, which reads all rows before it loads any
weights. Invariant: a file of scores stands under its name only when it is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from honed.cli.training import explained, loading_explained

STDOUT = Path("-")


def score(
    model: Annotated[str, typer.Option(help="The reward model: a checkpoint's name, or a folder.")],
    data: Annotated[
        Path, typer.Option(help="Rows with `messages` and `answers`: JSON Lines, the same gzipped, or Parquet.")
    ],
    output: Annotated[
        Path, typer.Option(help="A file that ends with .jsonl, .jsonl.gz or .parquet; - is standard output.")
    ] = STDOUT,
    dtype: Annotated[Literal["auto", "bfloat16", "float32"], typer.Option(help="Numbers to compute in.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    tokens_per_pass: Annotated[
        int, typer.Option(min=0, help="Tokens of one forward pass; 0 is 512 on a CPU and 8192 on a GPU.")
    ] = 0,
) -> None:
    """Score the answers in a file with a reward model: a JSON line a row, in the file's order."""
    from honed.models.sources import honed_home, pull
    from honed.server.store.exchange.files import write_rows
    from honed.training.planning.preflight import require_judge

    with explained():
        folder = pull(model, honed_home())
        require_judge(folder, option="--model")
        with loading_explained():
            from honed.training.scoring import score_file

            rows = score_file(folder, data, dtype=dtype, device=device, tokens_per_pass=tokens_per_pass)
            write_rows(output, rows)
