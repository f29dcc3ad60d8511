"""Options of labellers, as they come from a command line: names and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import InputError
from foretell.flywheel._sandbox import Isolation, SandboxLimits


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


def number(options: Mapping[str, str], name: str, *, default: float) -> float:
    """An option that is a number; which ones will do is for the labeller to say."""
    text = options.get(name)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}; wanted a number, as in 0.01") from None


def whole_number(options: Mapping[str, str], name: str, *, default: int) -> int:
    """An option that is a whole number of at least 0."""
    text = options.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} is {text!r}; wanted a whole number, as in 10")
    return int(text)


def one_of(options: Mapping[str, str], name: str, *choices: str) -> str:
    """An option that is one of several words; the first when left out."""
    value = options.get(name, choices[0])
    if value not in choices:
        raise InputError(f"option {name} is {value!r}; wanted {' or '.join(choices)}")
    return value


def sandbox_options(
    options: Mapping[str, str], *, default: SandboxLimits | None = None
) -> tuple[SandboxLimits, Isolation]:
    """Options of a labeller that runs what a model wrote."""
    default = default or SandboxLimits()
    limits = SandboxLimits(
        seconds=whole_number(options, "seconds", default=default.seconds),
        memory_mb=whole_number(options, "memory_mb", default=default.memory_mb),
    )
    isolation = one_of(options, "sandbox", "strict", "process")
    return limits, "strict" if isolation == "strict" else "process"


def text_or_file(options: Mapping[str, str], name: str) -> str | None:
    """An option that is a text, or the path of a file that holds it.

    A file that exists is read; a single word cannot be anything but a path.
    """
    value = options.get(name)
    if not value:
        return None
    if len(value.split()) > 1 and not _is_file(value):
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {name} {value}: {error}") from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or holds a null
        return False


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
