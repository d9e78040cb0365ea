"""How a command ends that could not do what it was asked."""

from __future__ import annotations

import typer


def fail(message: str) -> typer.Exit:
    """To be raised: the message goes to standard error, and the exit status is 1."""
    typer.echo(f"honed: {message}", err=True)
    return typer.Exit(1)
