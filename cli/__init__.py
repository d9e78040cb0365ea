"""The command line: the one place that knows all folders.

The commands of the server and the store import what they need when they are called, so that the clients, which need
neither torch nor a database, start at once.
"""

from __future__ import annotations

import typer

from honed.cli.cycle import approve, cycle
from honed.cli.evaluation import Evaluate, evaluate
from honed.cli.exchange import export, import_
from honed.cli.jobs import worker
from honed.cli.policies import lineage, promote, rollback
from honed.cli.scoring import score
from honed.cli.serving import pull, serve
from honed.cli.statistics import stats
from honed.cli.store import consent, erase, migrate
from honed.cli.training import train
from honed.clients.bench import bench
from honed.clients.terminal import chat

ABOUT = "Serve a chat model behind the OpenAI API, talk to it, measure it, remember what its users said, and train it."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=ABOUT)
for command in (
    serve, pull, chat, bench, migrate, consent, erase, stats, score, worker, cycle, approve, promote, rollback, lineage,
):  # fmt: skip
    app.command()(command)
app.command(cls=Evaluate)(evaluate)
app.command("import")(import_)
app.command("export")(export)
app.add_typer(train, name="train")
