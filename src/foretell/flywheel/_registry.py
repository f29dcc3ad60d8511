"""Labellers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from foretell.errors import InputError
from foretell.flywheel._code_labeller import Code
from foretell.flywheel._ensemble import Ensemble
from foretell.flywheel._json_labellers import JsonField, JsonFields, JsonValid
from foretell.flywheel._judge import Judge
from foretell.flywheel._labeller import Labeller
from foretell.flywheel._schema_labeller import JsonSchema
from foretell.flywheel._sql_labeller import Sql
from foretell.flywheel._text_labellers import Contains, Exact, Numeric, Regex
from foretell.flywheel._workshop import Workshop

_GROUP = "foretell.labellers"

_OURS: Mapping[str, Callable[[Mapping[str, str]], Labeller]] = {
    "code": Code.from_options,
    "contains": Contains.from_options,
    "exact": Exact.from_options,
    "json_field": JsonField.from_options,
    "json_fields": JsonFields.from_options,
    "json_schema": JsonSchema.from_options,
    "json_valid": JsonValid.from_options,
    "numeric": Numeric.from_options,
    "regex": Regex.from_options,
    "sql": Sql.from_options,
}


def make_labeller(
    name: str, options: Mapping[str, str] | None = None, workshop: Workshop | None = None
) -> Labeller:
    """The labeller of a name, with options as texts; a judge borrows its model from a workshop.

    Beside ours, packages add labellers through entry points of the group
    ``foretell.labellers``, each a callable that takes the options. They cannot replace ours.

    Raises:
        InputError: An unknown name or option, one that is missing, or an unusable value.
    """
    options = options or {}
    if name == "judge":
        return Judge.from_options(options, workshop)
    if name == "ensemble":
        return Ensemble.from_options(
            options, lambda member, own: make_labeller(member, own, workshop)
        )
    if make := _OURS.get(name):
        return make(options)
    for point in entry_points(group=_GROUP, name=name):
        return point.load()(options)
    raise InputError(f"no labeller is called {name!r}; there are {', '.join(labeller_names())}")


def labeller_names() -> list[str]:
    """Names that ``make_labeller`` knows, sorted."""
    return sorted(
        {*_OURS, "judge", "ensemble", *(point.name for point in entry_points(group=_GROUP))}
    )
