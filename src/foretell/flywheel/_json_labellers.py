"""Labellers that look at the JSON in an answer."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from foretell.errors import InputError
from foretell.flywheel._compare import fold, same
from foretell.flywheel._labeller import (
    NO_REFERENCE,
    SUCCESS,
    TRUNCATED,
    Label,
    check_references,
)
from foretell.flywheel._options import check_names, read_aliases, required
from foretell.records import Answer, Query

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value that an answer holds."""

    value: Any


def find_json(answer: Answer) -> Found | None:
    """The whole answer's value, else that of the first fenced block that is one, else an object's.

    Of a truncated answer a number or a word does not count: the rest of it may be missing.
    """
    text = answer.text.strip()
    value, end = _parse(text)
    cut_short = answer.finish_reason == "length" and text[-1:] not in tuple('}]"')
    if value is not _MISSING and end == len(text) and not cut_short:
        return Found(value)
    for block in _FENCE.finditer(answer.text):
        content = block[1].strip()
        value, end = _parse(content)
        if value is not _MISSING and end == len(content):
            return Found(value)
    found = _first_object(answer)
    return None if found is None else Found(found)


class JsonValid:
    """Whether the whole answer, but for white space around it, is one valid JSON value.

    Valid is what RFC 8259 says: any value, not only objects; no ``NaN``; no fence and no text
    around it. A truncated answer is a success when it is a complete object, list or string, a
    failure when text follows a complete value, else it cannot be told.
    """

    metric = "json_valid"

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: none."""
        check_names(cls.metric, options)
        return cls()

    def check(self, queries: Sequence[Query]) -> None:
        """Nothing is needed."""

    def label(self, query: Query, answer: Answer) -> Label:  # noqa: ARG002 (any labeller gets it)
        """Judge an answer; the query does not matter."""
        text = answer.text.strip()
        value, end = _parse(text)
        truncated = answer.finish_reason == "length"
        if value is _MISSING:
            return TRUNCATED if truncated else Label(0.0, "no valid JSON")
        if end < len(text):
            return Label(0.0, "text after the JSON")
        # the rest of a cut number may be missing: 12 of 1234
        return TRUNCATED if truncated and text[-1] not in '}]"' else SUCCESS


class JsonField:
    """Whether a field of the answer's JSON object equals the query's reference.

    The object is that of the first fenced block that is one, else the first in the text; what
    surrounds it does not matter. In a truncated answer only the first brace may begin it, since
    a later one may be a part of what was cut. The field's name must be exact. Its value is
    compared with ``reference[field]``, or with the reference itself when that is no object:
    numbers by value, text without case, accents, punctuation or extra white space.

    Args:
        field: Name of the field.
        aliases: Other names that are as good, by canonical name. A name may belong to several.
    """

    def __init__(self, field: str, aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self._field = field
        self._canonical = _canonical_names(aliases or {})

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``field`` and ``aliases`` (a JSON file)."""
        check_names("json_field", options, "field", "aliases")
        field = required("json_field", options, "field")
        path = options.get("aliases")
        return cls(field, None if path is None else read_aliases(path))

    @property
    def metric(self) -> str:
        """``json_field:country`` for the field ``country``."""
        return f"json_field:{self._field}"

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries without references, and a field that no reference has."""
        check_references(self.metric, queries)
        references = [query.reference for query in queries if query.reference is not None]
        if all(_wanted(reference, self._field) is _MISSING for reference in references):
            fields = sorted({field for reference in references for field in reference})
            raise InputError(
                f"no query's reference has the field {self._field!r}; the fields are "
                f"{', '.join(fields) or 'none'}"
            )

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        wanted = _wanted(query.reference, self._field)
        if wanted is _MISSING:
            return NO_REFERENCE
        found = _first_object(answer)
        if found is None:
            return _no_object(answer)
        if self._field not in found:
            return Label(0.0, f"no field {self._field}")
        value = found[self._field]
        right = same(value, wanted) or _share_a_name(value, wanted, self._canonical)
        return SUCCESS if right else Label(0.0, f"wrong {self._field}")


class JsonFields:
    """Whether all fields of the reference are right in the answer's JSON object.

    1 when all are, else 0. Object and values are found and compared as ``JsonField`` does;
    fields that the reference does not have do no harm.
    """

    metric = "json_fields"

    def __init__(self, aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self._canonical = _canonical_names(aliases or {})

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``aliases`` (a JSON file)."""
        check_names(cls.metric, options, "aliases")
        path = options.get("aliases")
        return cls(None if path is None else read_aliases(path))

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has an object as its reference."""
        check_references(self.metric, queries)
        if not any(isinstance(query.reference, dict) for query in queries):
            raise InputError(
                "the labeller 'json_fields' wants references that are objects, and no query has "
                "one; use json_field for a single value"
            )

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if not isinstance(query.reference, dict):
            return NO_REFERENCE
        found = _first_object(answer)
        if found is None:
            return _no_object(answer)
        for field, wanted in cast("dict[str, Any]", query.reference).items():
            value = found.get(field)
            if not (same(value, wanted) or _share_a_name(value, wanted, self._canonical)):
                return Label(0.0, f"wrong {field}" if field in found else f"no field {field}")
        return SUCCESS


def _wanted(reference: Any, field: str) -> Any:
    if isinstance(reference, dict):
        return cast("dict[str, Any]", reference).get(field, _MISSING)
    return _MISSING if reference is None else reference


def _no_object(answer: Answer) -> Label:
    return TRUNCATED if answer.finish_reason == "length" else Label(0.0, "no JSON object")


def _canonical_names(aliases: Mapping[str, Sequence[str]]) -> Mapping[str, set[str]]:
    """By folded name, all canonical names it may stand for."""
    canonical: defaultdict[str, set[str]] = defaultdict(set)
    for name, others in aliases.items():
        for other in (name, *others):
            canonical[fold(other)].add(name)
    return canonical


def _share_a_name(value: Any, wanted: Any, canonical: Mapping[str, set[str]]) -> bool:
    if isinstance(wanted, list):
        return any(_share_a_name(value, one, canonical) for one in cast("list[Any]", wanted))
    if not isinstance(value, str) or not isinstance(wanted, str):
        return False
    nothing: set[str] = set()
    return bool(canonical.get(fold(value), nothing) & canonical.get(fold(wanted), nothing))


def _first_object(answer: Answer) -> dict[str, Any] | None:
    """The first JSON object in a fenced block, else in the text; ``None`` without one."""
    for block in _FENCE.finditer(answer.text):
        content = block[1].strip()
        value, end = _parse(content)
        if isinstance(value, dict) and end == len(content):
            return cast("dict[str, Any]", value)
    for brace in re.finditer(r"\{", answer.text):
        value, _ = _parse(answer.text, brace.start())
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
        if answer.finish_reason == "length":
            break
    return None


def _parse(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and where it ends; ``_MISSING`` without one."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return _MISSING, start


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
