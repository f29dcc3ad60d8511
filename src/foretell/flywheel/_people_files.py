"""The people's queue as a file that a person fills in, in a spreadsheet or an editor."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from foretell.errors import InputError
from foretell.flywheel._people import VERDICTS, PeopleLabel, QueueItem

COLUMNS: Final = (
    "id", "question", "answer", "reference", "truncated", "your_label", "note", "role", "model",
    "key",
)  # fmt: skip
_NEEDED: Final = ("your_label", "key")
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001 (some take these, too)
_LONGEST_CELL: Final = 100_000_000
_MOST_PROBLEMS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledQueue:
    """What a file says: labels, and how many of its rows have none yet."""

    labels: tuple[PeopleLabel, ...]
    blank: int


def write_queue(path: Path, items: Sequence[QueueItem]) -> None:
    """Write a queue as CSV or JSON Lines, by the name's ending.

    In CSV a cell that a spreadsheet might run as a formula begins with an apostrophe, which
    ``read_queue`` takes away again. UTF-8 with a mark at its start, by which spreadsheets know it.

    Raises:
        InputError: Another ending.
        OSError: The file cannot be written.
    """
    rows = [_row(item) for item in items]
    if _is_csv(path):
        text = StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows({name: _shielded(_cell(row[name])) for name in COLUMNS} for row in rows)
        path.write_text(text.getvalue(), encoding="utf-8-sig", errors="replace", newline="")
        return
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8", errors="replace", newline="\n")


def read_queue(path: Path) -> FilledQueue:
    """Read a file that ``write_queue`` wrote and a person has filled in.

    ``your_label`` is right, wrong or skip, in any case; blank rows were not looked at yet. Only
    the columns ``your_label`` and ``key`` are needed, ``note`` is read where it is. Cells may be
    divided by commas, semicolons or tabs.

    Raises:
        InputError: Another ending, no such file, a column that is missing, or labels that are
            none, with their lines; then nothing of the file counts.
    """
    rows = list(_csv_rows(path) if _is_csv(path) else _jsonl_rows(path))
    labels, problems, blank = list[PeopleLabel](), list[str](), 0
    for line, row in rows:
        if missing := [name for name in _NEEDED if not isinstance(row.get(name), str)]:
            problems.append(f"line {line} has no {missing[0]}")
            continue
        said, note = row["your_label"].strip().lower(), row.get("note") or ""
        verdict = VERDICTS.get(said)
        if not said:
            blank += 1
        elif verdict is None:
            problems.append(f"line {line} says {row['your_label']!r}")
        else:
            labels.append(PeopleLabel(key=row["key"].strip(), verdict=verdict, note=str(note)))
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        raise InputError(
            f"{path}: {'; '.join(problems[:_MOST_PROBLEMS])}"
            f"{f'; and {more} more lines' if more > 0 else ''}; wanted the columns as they were "
            "exported, and right, wrong or skip (or nothing) under your_label"
        )
    return FilledQueue(labels=tuple(labels), blank=blank)


def _row(item: QueueItem) -> dict[str, Any]:
    return {
        "id": item.id,
        "question": item.question,
        "answer": item.answer,
        "reference": item.reference,
        "truncated": "truncated" if item.truncated else "",
        "your_label": "",
        "note": "",
        "role": item.role,
        "model": item.model,
        "key": item.key,
    }


def _is_csv(path: Path) -> bool:
    if (ending := path.suffix.lower()) not in (".csv", ".jsonl"):
        raise InputError(
            f"{path} ends neither in .csv nor in .jsonl; name it so, to say what it is"
        )
    return ending == ".csv"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shielded(cell: str) -> str:
    """The text as no spreadsheet will run it: what comes first decides, after white space."""
    return f"'{cell}" if _needs_shield(cell) else cell


def _unshielded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _needs_shield(cell[1:]) else cell


def _needs_shield(cell: str) -> bool:
    # An apostrophe of the text's own is shielded as well, so that reading undoes writing.
    return cell.lstrip().startswith(_FORMULA) or cell[:1] in ("'", "\t", "\r", "\n")


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = _read(path)
    header = text.partition("\n")[0]
    dividers = [one for one in ",;\t" if set(_NEEDED) <= set(_header(header, one))]
    if not dividers:
        raise InputError(
            f"{path} lacks the columns {' and '.join(_NEEDED)} in its first line; keep the columns "
            "as they were exported"
        )
    with _long_cells():
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=dividers[0])
        try:
            for row in reader:
                cells = {
                    str(name).strip(): _unshielded(cell)
                    for name, cell in row.items()
                    if isinstance(cell, str)
                }
                if any(cells.values()):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None


def _header(line: str, divider: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line.strip("\r")], delimiter=divider), [])]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(_read(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row: Any = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: wanted an object, as it was exported")
        yield line, row


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"cannot read the labels {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'") from None


@contextmanager
def _long_cells() -> Generator[None]:
    """Questions may be longer than what the csv module takes by default."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
