"""Options of labellers, as they come from a command line: names and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import InputError


def check_names(labeller: str, options: Mapping[str, str], *known: str) -> None:
    """Refuse options that the labeller does not have."""
    unknown = [name for name in options if name not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"the labeller {labeller!r} has no option {unknown[0]!r}; {has}")


def required(labeller: str, options: Mapping[str, str], name: str) -> str:
    """The text of an option that must be given."""
    if value := options.get(name):
        return value
    raise InputError(f"the labeller {labeller!r} needs the option {name!r}, as in {name}=...")


def yes_or_no(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """An option that is ``yes`` or ``no``."""
    value = options.get(name)
    if value is None:
        return default
    if value not in ("yes", "no"):
        raise InputError(f"option {name} is {value!r}; wanted yes or no")
    return value == "yes"


def read_aliases(path: str) -> dict[str, list[str]]:
    """Other names by canonical name, from a JSON file: ``{"Germany": ["Deutschland"]}``."""
    try:
        aliases: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the aliases {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"the aliases {path} are not valid JSON: {error}") from None
    if not isinstance(aliases, dict) or not all(map(_is_names, aliases.values())):
        raise InputError(
            f'the aliases {path} must be one object such as {{"Germany": ["Deutschland"]}}'
        )
    return aliases


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
