"""Outcomes as they are stored, each with the model whose answer it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import select

from foretell.records import Outcome
from foretell.store import Store, _tables


def stored_outcomes(store: Store, domain: str) -> Mapping[str, list[Outcome]]:
    """All outcomes of a domain, by the key of the model that answered; ``""`` when none had."""
    table = _tables.outcomes
    statement = select(table).where(table.c.domain == domain).order_by(*table.primary_key)
    found = defaultdict[str, list[Outcome]](list)
    # The store has no reader of single outcomes of its own yet.
    with store._database.transaction() as connection:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        for row in connection.execute(statement).mappings():
            fields = dict(row)
            del fields["recorded_at"]
            found[fields.pop("model_key")].append(Outcome(**fields))
    return found
