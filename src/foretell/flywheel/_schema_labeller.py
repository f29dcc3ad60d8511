"""Whether the JSON in an answer is valid by a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from foretell.errors import EngineUnavailableError, InputError
from foretell.flywheel._json_labellers import find_json
from foretell.flywheel._labeller import SUCCESS, TRUNCATED, Label
from foretell.flywheel._options import check_names, required, yes_or_no
from foretell.records import Answer, Query

if TYPE_CHECKING:
    from jsonschema_rs import Validator

_MOST_REGEX_BYTES: Final = 1 << 20


class JsonSchema:
    """Whether the answer's JSON is valid by a schema.

    The JSON is the whole answer when that is JSON, else the first fenced block that is, else the
    first object in the text; of a truncated answer only a complete object, list or string, begun at
    its first brace. The draft is the one that ``$schema`` names, else 2020-12. ``format`` is a
    note, as the standard has it, unless ``formats``. Patterns run in linear time, so those with
    look-around or back-references are refused, and so is a schema that refers to another document.

    The reason of a failure is where the schema failed first, its keyword last:
    ``properties/country/type``.
    """

    metric = "json_schema"

    def __init__(self, schema: dict[str, Any] | bool, *, formats: bool = False) -> None:
        self._validator = _validator(schema, formats=formats)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from options: ``schema`` (a file, or an object), ``formats`` (yes or no)."""
        check_names(cls.metric, options, "schema", "formats")
        schema = _read_schema(required(cls.metric, options, "schema"))
        return cls(schema, formats=yes_or_no(options, "formats", default=False))

    def check(self, queries: Sequence[Query]) -> None:
        """Nothing is needed."""

    def label(self, query: Query, answer: Answer) -> Label:  # noqa: ARG002 (any labeller gets it)
        """Judge an answer; the query does not matter."""
        found = find_json(answer)
        if found is None:
            return TRUNCATED if answer.finish_reason == "length" else Label(0.0, "no valid JSON")
        try:
            failed = next(self._validator.iter_errors(found.value), None)
        except UnicodeEncodeError:
            # A lone surrogate, which JSON can spell and Unicode cannot.
            return Label(0.0, "no Unicode text")
        except ValueError:
            return Label(None, "nested too deep")
        if failed is None:
            return SUCCESS
        return Label(0.0, "/".join(map(str, failed.schema_path)) or "false")


def _validator(schema: dict[str, Any] | bool, *, formats: bool) -> Validator:
    try:
        import jsonschema_rs
    except ImportError as error:
        raise EngineUnavailableError(
            "the labeller 'json_schema' needs jsonschema-rs, which is not installed; "
            "pip install 'foretell[label]'"
        ) from error
    try:
        return jsonschema_rs.validator_for(
            schema,
            validate_formats=formats,
            retriever=_refuse,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_MOST_REGEX_BYTES),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InputError(f"the schema cannot be used: {str(error).splitlines()[0]}") from None


def _refuse(address: str) -> Any:
    raise ValueError(f"it refers to {address}, and other documents are not fetched")


def _read_schema(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the schema {text}: {error}") from error
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the schema is not valid JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise InputError('the schema must be an object, such as {"type": "object"}')
    return schema
