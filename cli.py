"""The command line: `honed serve | pull | chat | bench`. Each command imports its room when it is called."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
