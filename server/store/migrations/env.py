"""Run by Alembic in the course of `migrate`, which hands over the connection, with its transaction."""

from alembic import context

from honed.server.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a column by making the table anew
)
context.run_migrations()
