"""Labellers by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from foretell.errors import InputError, RoutingError
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

_OURS: Final = {
    "code": Code,
    "contains": Contains,
    "exact": Exact,
    "json_field": JsonField,
    "json_fields": JsonFields,
    "json_schema": JsonSchema,
    "json_valid": JsonValid,
    "numeric": Numeric,
    "regex": Regex,
    "sql": Sql,
}


def make_labeller(
    name: str, options: Mapping[str, str] | None = None, workshop: Workshop | None = None
) -> Labeller:
    """The labeller of a name, with options as texts; a judge borrows its model from a workshop.

    Beside ours, packages add labellers through entry points of the group
    ``foretell.labellers``, each a callable that takes the options. They cannot replace ours.

    Raises:
        InputError: An unknown name or option, one that is missing, or an unusable value; another
            package's labeller that cannot be made.
    """
    options = options or {}
    if name == "judge":
        return Judge.from_options(options, workshop)
    if name == "ensemble":
        return Ensemble.from_options(
            options, lambda member, own: make_labeller(member, own, workshop)
        )
    if ours := _OURS.get(name):
        return ours.from_options(options)
    for point in entry_points(group=_GROUP, name=name):
        return _of_package(point, options)
    raise InputError(f"no labeller is called {name!r}; there are {', '.join(labeller_names())}")


def metric_named(name: str, options: Mapping[str, str]) -> str:
    """What the outcomes of a labeller are called, whether what it needs is installed or not.

    Raises ``InputError`` as ``make_labeller``.
    """
    if name == "judge":  # making one may load its model
        return "judge:pairwise" if options.get("mode") == "pairwise" else "judge"
    if name == "ensemble":
        return Ensemble.metric
    fixed = getattr(_OURS.get(name), "metric", None)
    return fixed if isinstance(fixed, str) else make_labeller(name, options).metric


def labeller_names() -> list[str]:
    """Names that ``make_labeller`` knows, sorted."""
    return sorted(
        {*_OURS, "judge", "ensemble", *(point.name for point in entry_points(group=_GROUP))}
    )


def _of_package(point: EntryPoint, options: Mapping[str, str]) -> Labeller:
    try:
        return point.load()(options)
    except RoutingError:
        raise
    except Exception as error:
        raise InputError(
            f"the labeller {point.name!r} of {point.value} cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error
