"""Whether the SQL in an answer gives what the reference's SQL gives."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self, cast

from foretell.errors import EngineUnavailableError, InputError
from foretell.flywheel._fences import code_block
from foretell.flywheel._labeller import (
    NO_REFERENCE,
    SUCCESS,
    TRUNCATED,
    Label,
    check_references,
)
from foretell.flywheel._options import check_names, number, sandbox_options, yes_or_no
from foretell.flywheel._result_tables import Row, same_rows
from foretell.flywheel._sandbox import (
    Isolation,
    SandboxLimits,
    check_sandbox,
    run_sandboxed,
)
from foretell.records import Answer, Query

_MOST_ROWS: Final = 10_000
_ROOM_MB: Final = 3_072
"""Address space that DuckDB asks for beside the memory that it uses."""

_LIMITS: Final = SandboxLimits(memory_mb=256)


class Sql:
    """Whether the answer's SQL and the reference's have the same result in DuckDB.

    The SQL is the first block fenced as ``sql``, else the first block, else the whole answer; of
    several statements the last result counts. The reference is ``{"sql": "...", "setup": "..."}``,
    the setup being statements that make the tables, or the SQL alone. Each answer gets a database
    of its own, in memory.

    The same result has equally many columns, whatever they are called, and the same rows: in any
    order unless ``ordered``, numbers equal by value, and to a ``tolerance`` (absolute, or relative
    to the larger) where a column holds floating point. Dates and the like equal their texts.
    Numbers within lists and structures must be equal. Of results beyond 10,000 rows only so many
    are compared, and none is judged.

    The SQL runs in a sandbox: DuckDB without access to files, network, extensions and settings, in
    a process without them either; ``limits.memory_mb`` is what DuckDB may use. A truncated answer
    is run only when its block is closed, and is a success when the results agree, never a failure.
    """

    metric = "sql"

    def __init__(
        self,
        *,
        ordered: bool = False,
        tolerance: float = 1e-6,
        limits: SandboxLimits = _LIMITS,
        isolation: Isolation = "strict",
    ) -> None:
        if not (math.isfinite(tolerance) and 0 <= tolerance < 1):
            raise InputError(f"tolerance is {tolerance}; wanted 0 or more, and below 1")
        self._ordered = ordered
        self._tolerance = tolerance
        self._memory_mb = limits.memory_mb
        self._limits = SandboxLimits(seconds=limits.seconds, memory_mb=limits.memory_mb + _ROOM_MB)
        self._isolation: Isolation = isolation

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from options.

        They are ``order`` (yes or no), ``tolerance``, ``seconds``, ``memory_mb`` and ``sandbox``
        (strict or process).
        """
        check_names(cls.metric, options, "order", "tolerance", "seconds", "memory_mb", "sandbox")
        limits, isolation = sandbox_options(options, default=_LIMITS)
        return cls(
            ordered=yes_or_no(options, "order", default=False),
            tolerance=number(options, "tolerance", default=1e-6),
            limits=limits,
            isolation=isolation,
        )

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has SQL, and a machine without DuckDB or a sandbox."""
        check_references(self.metric, queries)
        if all(_wanted(query.reference) is None for query in queries):
            raise InputError(
                "the labeller 'sql' found no SQL in any reference; wanted text such as "
                '{"sql": "SELECT ...", "setup": "CREATE TABLE ..."}'
            )
        _packages()
        check_sandbox(self._limits, self._isolation)

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if query.reference is None:
            return NO_REFERENCE
        wanted = _wanted(query.reference)
        if wanted is None:
            return Label(None, "unusable reference")
        truncated = answer.finish_reason == "length"
        block = code_block(answer.text, "sql", "duckdb")
        if truncated and not block.whole:
            return TRUNCATED
        if not block.text.strip():
            return TRUNCATED if truncated else Label(0.0, "no SQL")
        label = self._judge(wanted, block.text)
        return TRUNCATED if truncated and label.value == 0 else label

    def _judge(self, wanted: _Wanted, sql: str) -> Label:
        finished = run_sandboxed(
            "_run_sql.py",
            {
                "packages": _packages(),
                "memory_mb": self._memory_mb,
                "most_rows": _MOST_ROWS + 1,
                "setup": wanted.setup,
                "sql": wanted.sql,
                "answer": sql,
            },
            self._limits,
            self._isolation,
        )
        said = finished.said
        part = said.get("part")
        if part is None:
            return Label(None, f"sandbox failed: {finished.problem}")
        if part != "answer":
            return Label(None, "unusable reference")
        if not finished.proven:
            return Label(0.0, f"SQL: {said.get('failed') or finished.problem}")
        if len(said["reference"]["rows"]) > _MOST_ROWS:
            return Label(None, "too many rows")
        if said["reference"]["columns"] != said["answer"]["columns"]:
            return Label(0.0, "other columns")
        right = same_rows(
            *([_row(row) for row in said[which]["rows"]] for which in ("reference", "answer")),
            ordered=self._ordered,
            tolerance=self._tolerance,
        )
        return SUCCESS if right else Label(0.0, "other rows")


@dataclass(frozen=True, slots=True)
class _Wanted:
    sql: str
    setup: str


def _wanted(reference: Any) -> _Wanted | None:
    setup: Any = ""
    if isinstance(reference, dict):
        fields = cast("dict[str, Any]", reference)
        reference, setup = fields.get("sql"), fields.get("setup") or ""
    if not isinstance(reference, str) or not reference.strip() or not isinstance(setup, str):
        return None
    return _Wanted(reference, setup)


def _packages() -> str:
    """The folder that the sandbox finds DuckDB in."""
    found = find_spec("duckdb")
    if found is None or found.origin is None:
        raise EngineUnavailableError(
            "the labeller 'sql' needs DuckDB, which is not installed; pip install 'foretell[label]'"
        )
    return str(Path(found.origin).parent.parent)


def _row(plain: Sequence[Any]) -> Row:
    return tuple(map(_value, plain))


def _value(plain: Any) -> Hashable:
    """What ``_run_sql`` wrote, as a value to compare."""
    match plain:
        case {"exact": str(text)}:
            return Decimal(text)
        case {"float": str(text)}:
            return float.fromhex(text)
        case list():
            return tuple(map(_value, cast("list[Any]", plain)))
        case _:
            return plain
