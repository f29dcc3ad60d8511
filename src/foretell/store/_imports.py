"""Logs that a team has already: what was asked, and what the strong model answered."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

from foretell.errors import InputError
from foretell.records import Answer, Observation, Usage
from foretell.store._files import parse_query, parse_text, refuse_constant
from foretell.store._logged import LoggedAnswer, counted_usage, known_finish, logged_query
from foretell.store._openai_logs import load_inputs, openai_answers
from foretell.store._texts import is_storable

LogFormat = Literal["openai", "jsonl", "csv"]

CSV_FIELDS: Final = ("id", "system", "prompt", "answer", "model", "reference", "group")
"""What a column of a CSV file can be; ``prompt`` and ``answer`` must be there."""

_OF_ANSWER: Final = ("answer", "model", "finish_reason", "prompt_tokens", "completion_tokens")
_CHARACTERS_A_TOKEN: Final = 4
_LARGEST_FIELD: Final = 16 * 2**20
_TOLD: Final = 5
"""Bad rows that an error names, where all are bad."""

_Rows = Iterator[tuple[int, Mapping[str, Any] | InputError]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was left out. ``line`` counts from 1; a row of several lines has its last."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a log holds.

    Of ``estimated`` answers the log does not say how many tokens they and their prompts are: a
    quarter of the characters was taken for it.
    """

    observations: tuple[Observation, ...]
    bad: tuple[BadRow, ...]
    estimated: int


def import_logs(
    path: str | Path,
    *,
    format: LogFormat,  # noqa: A002 - the command's own word
    domain: str,
    model: str | None = None,
    tenant: str = "",
    inputs: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Imported:
    """Read a log as observations of the strong model, for ``Store.append``.

    Rows that cannot be read are left out and named. Reading the same file again gives the same
    queries: one without an id is called by a hash of its messages.

    Args:
        path: The file, in UTF-8.
        format: ``openai`` is one JSON object a line, each a ``{"request": …, "response": …}`` of
            chat completions, a line of the Batch API's output, a stored completion with its
            ``messages`` beside it, or ``{"messages": […]}`` that end with the assistant's, as for
            fine-tuning. ``jsonl`` is ``queries.jsonl`` (see ``load_queries``) with an ``answer``
            and, optional, ``model``, ``finish_reason``, ``prompt_tokens`` and
            ``completion_tokens``. ``csv`` has a header.
        domain: Whose queries they are.
        model: Who answered, where a row does not say.
        tenant: Whose queries they are, so that they can be erased with all that is that tenant's.
        inputs: The Batch API's input, which holds what was asked; its output does not.
        columns: Of a CSV file, the column of each of ``CSV_FIELDS`` that is called otherwise.

    Raises:
        InputError: The file cannot be read, all of its rows are bad, or an option does not belong
            to the format.
    """
    path = Path(path)
    if format not in get_args(LogFormat):
        raise InputError(f"the format is {format!r}; wanted openai, jsonl or csv")
    if inputs is not None and format != "openai":
        raise InputError(f"an input of the Batch API belongs to the format openai, not to {format}")
    if columns and format != "csv":
        raise InputError(f"names of columns belong to the format csv, not to {format}")
    if format == "csv":
        rows, read = _csv_rows(path, columns or {}), _csv_answers
    elif format == "jsonl":
        rows, read = _json_rows(path), _json_answers
    else:
        asked = {} if inputs is None else load_inputs(Path(inputs))
        rows, read = _json_rows(path), partial(openai_answers, asked=asked)
    try:
        found = _collected(rows, read)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not found.answers:
        told = "; ".join(f"line {row.line}: {row.reason}" for row in found.bad[:_TOLD])
        raise InputError(f"{path} has no row that can be imported: {told or 'it is empty'}")
    return Imported(
        observations=tuple(
            _observation(answer, domain=domain, model=model, tenant=tenant)
            for answer in found.answers
        ),
        bad=tuple(found.bad),
        estimated=sum(answer.usage is None for answer in found.answers),
    )


@dataclass(frozen=True, slots=True)
class _Collected:
    answers: list[LoggedAnswer]
    bad: list[BadRow]


def _collected(rows: _Rows, read: Callable[[Mapping[str, Any]], list[LoggedAnswer]]) -> _Collected:
    found = _Collected([], [])
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            answers = read(row)
            _require_storable(answers)
            query_id = answers[0].query.id
            if query_id in lines:
                raise InputError(f"query {query_id!r} was on line {lines[query_id]} already")
        except InputError as error:
            found.bad.append(BadRow(line=line, reason=str(error)))
        else:
            lines[query_id] = line
            found.answers.extend(answers)
    return found


def _json_rows(path: Path) -> _Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _json_row(line)


def _json_row(line: str) -> Mapping[str, Any] | InputError:
    try:
        entry: Any = json.loads(line, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        return InputError(f"it is not valid JSON: {error}")
    return entry if isinstance(entry, dict) else InputError("it is no JSON object")


def _json_answers(entry: Mapping[str, Any]) -> list[LoggedAnswer]:
    counts = {name: entry.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return [
        LoggedAnswer(
            query=parse_query({k: v for k, v in entry.items() if k not in _OF_ANSWER}),
            text=parse_text(entry, "answer"),
            model=parse_text(entry, "model") if "model" in entry else None,
            finish_reason=known_finish(entry.get("finish_reason")),
            usage=counted_usage(counts),
        )
    ]


def _csv_rows(path: Path, columns: Mapping[str, str]) -> _Rows:
    if unknown := sorted(set(columns) - set(CSV_FIELDS)):
        raise InputError(
            f"a column cannot be {unknown[0]!r}; it can be one of {', '.join(CSV_FIELDS)}"
        )
    csv.field_size_limit(_LARGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        names = {field: columns.get(field, field) for field in CSV_FIELDS}
        wanted = {names[field] for field in ("prompt", "answer", *columns)}
        if missing := sorted(wanted - set(header)):
            raise InputError(
                f"{path} has no column {missing[0]!r}; it has {', '.join(header) or 'none'}"
            )
        try:
            for row in reader:
                yield reader.line_num, {field: row.get(name) or "" for field, name in names.items()}
        except csv.Error as error:
            yield (
                reader.line_num,
                InputError(f"it is not CSV, and what follows is not read: {error}"),
            )


def _csv_answers(row: Mapping[str, Any]) -> list[LoggedAnswer]:
    system = [{"role": "system", "content": row["system"]}] if row["system"] else []
    asked = [*system, {"role": "user", "content": parse_text(row, "prompt")}]
    query = logged_query(asked, row["id"] or None, row["group"] or None)
    return [
        LoggedAnswer(
            query=replace(query, reference=row["reference"] or None),
            text=parse_text(row, "answer"),
            model=row["model"] or None,
        )
    ]


def _require_storable(answers: list[LoggedAnswer]) -> None:
    query = answers[0].query
    texts = [query.id, json.dumps(query.messages, ensure_ascii=False), query.group or ""]
    # JSON spells NUL as an escape, which one of the databases refuses in the end.
    texts += [text for answer in answers for text in (answer.text, answer.model or "")]
    if not all(map(is_storable, texts)) or "\\u0000" in texts[1]:
        raise InputError("it holds a character that cannot be stored (NUL or half a pair)")


def _observation(
    logged: LoggedAnswer, *, domain: str, model: str | None, tenant: str
) -> Observation:
    return Observation(
        domain=domain,
        query=logged.query,
        role="strong",
        answer=Answer(
            text=logged.text,
            model=logged.model or model or "unknown",
            finish_reason=logged.finish_reason,
            usage=logged.usage or _estimated(logged),
        ),
        rollout=logged.rollout,
        tenant=tenant,
        origin="imported",
    )


def _estimated(logged: LoggedAnswer) -> Usage:
    asked = sum(len(str(message.get("content", ""))) for message in logged.query.messages)
    return Usage(
        prompt_tokens=-(-asked // _CHARACTERS_A_TOKEN),
        completion_tokens=-(-len(logged.text) // _CHARACTERS_A_TOKEN),
    )
