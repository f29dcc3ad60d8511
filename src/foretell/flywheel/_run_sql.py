"""Run inside the sandbox, without foretell: a reference's SQL and an answer's, in DuckDB."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # a name in the SQL is never one of ours
    "max_temp_directory_size": "0KB",
    # With more than the one thread, the locks would not hold the others.
    "threads": "1",
    "async_threads": "0",
}


def prepare(task: Mapping[str, Any]) -> Callable[..., bool]:
    """What runs the task once the process is locked in; it returns whether all went well."""
    sys.path.append(task["packages"])
    import duckdb

    # Connected before, since it looks at files of the system to see how much memory there is.
    settings: dict[str, Any] = {**_SETTINGS, "memory_limit": f"{task['memory_mb']}MB"}
    database = duckdb.connect(":memory:", config=settings)

    def run(report: Callable[..., None]) -> bool:
        with database:
            try:
                report(part="setup")
                if task["setup"]:
                    database.execute(task["setup"])
                database.execute("SET lock_configuration = true")
                report(part="reference")
                wanted = _rows(database, task["sql"], task["most_rows"])
                report(reference=wanted)
                report(part="answer")
                # One row more shows that there are too many.
                report(answer=_rows(database, task["answer"], len(wanted["rows"]) + 1))
            except Exception as error:  # noqa: BLE001 (a statement without a result is one, too)
                report(failed=type(error).__name__)
                return False
        return True

    return run


def _rows(database: Any, sql: str, most: int) -> dict[str, Any]:
    """The result of the last statement: how many columns, and at most so many rows."""
    result = database.execute(sql)
    columns = len(result.description or ())
    return {"columns": columns, "rows": [_plain_row(row) for row in result.fetchmany(most)]}


def _plain_row(row: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    """A value as JSON, a number in an object of its own so that none is rounded on the way."""
    match value:
        case None | bool() | str():
            return value
        case int() | Decimal():
            return {"exact": str(value)}
        case float():
            return {"float": value.hex()}
        case date() | datetime() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return ["fields", *([str(key), _plain(inner)] for key, inner in value.items())]
        case list() | tuple():
            return ["list", *map(_plain, value)]
        case _:
            return str(value)
