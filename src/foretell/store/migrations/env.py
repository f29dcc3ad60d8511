"""Runs the migrations on the connection that ``foretell.store`` hands over.

The connection is already in a transaction, so an upgrade happens as a whole or not at all.
"""

from alembic import context

from foretell.store._tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
