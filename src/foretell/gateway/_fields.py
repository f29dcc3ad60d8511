"""Reading a caller's JSON field by field: what is wrong is told with the field's path."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from foretell.gateway._bodies import described
from foretell.gateway._errors import ApiError, quoted

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Field:
    """One value of a body, and where it stands there (``input.0.content``).

    Every reader returns the plain value, or raises ``ApiError`` (400) whose ``param`` is the path.
    A field that is ``null`` reads as one that is absent, as both APIs have it.
    """

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str = "") -> None:
        self.value = value
        self.path = path

    def get(self, name: str) -> Field | None:
        """A field of this object; ``None`` when it is absent or null."""
        value = self.members().get(name)
        return None if value is None else Field(value, self._below(name))

    def need(self, name: str) -> Field:
        """A field of this object that must be there."""
        field = self.get(name)
        if field is None:
            path = self._below(name)
            raise ApiError(400, f"{path} is missing", code="missing_required_parameter", param=path)
        return field

    def members(self) -> dict[str, Any]:
        """This object as it is."""
        if not isinstance(self.value, dict):
            raise self._wanted("an object")
        return self.value

    def items(self) -> Iterator[Field]:
        """What is in this list."""
        if not isinstance(self.value, list):
            raise self._wanted("a list")
        values: list[Any] = self.value
        return (Field(value, self._below(str(i))) for i, value in enumerate(values))

    def text(self, *, longest: int | None = None, empty: bool = True) -> str:
        """This string."""
        if not isinstance(self.value, str):
            raise self._wanted("a string")
        if not empty and not self.value:
            raise self.wrong("must not be empty")
        if longest is not None and len(self.value) > longest:
            raise self.wrong(f"must have {longest} characters at most, got {len(self.value)}")
        return self.value

    def storable(self, *, longest: int, empty: bool = True) -> str:
        """This string, which a database must take; half a surrogate pair was refused before."""
        text = self.text(longest=longest, empty=empty)
        if "\0" in text:
            raise self.wrong("must not hold the character NUL")
        return text

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._wanted("true or false")
        return self.value

    def integer(self, low: int | None = None, high: int | None = None) -> int:
        """This whole number, from ``low`` to ``high``."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wanted("a whole number")
        return self._within(low, high)

    def number(self, low: float, high: float) -> float:
        """This number, from ``low`` to ``high``."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self._wanted("a number")
        return self._within(low, high)

    def one_of(self, known: Collection[str]) -> str:
        """One of a few words."""
        text = self.text()
        if text not in known:
            raise self.wrong(f"must be one of {_listed(known)}; got {quoted(text)}")
        return text

    def wrong(self, problem: str, *, code: str = "invalid_value") -> ApiError:
        """The error to raise about this field; ``problem`` goes on after its path."""
        return ApiError(
            400, f"{self.path or 'the body'} {problem}", code=code, param=self.path or None
        )

    def refuse(self, problem: str, *, code: str = "invalid_value") -> NoReturn:
        """Raise what is ``wrong`` with this field."""
        raise self.wrong(problem, code=code)

    def unsupported(self, what: str) -> ApiError:
        """The error to raise about what cannot be done, which an answer without it would hide."""
        return self.wrong(f"is not supported here: {what}", code="unsupported_value")

    def _within(self, low: float | None, high: float | None) -> Any:
        if (low is None or self.value >= low) and (high is None or self.value <= high):
            return self.value
        if low is None or high is None:
            bound = f"at least {low}" if high is None else f"{high} at most"
        else:
            bound = f"from {low} to {high}"
        raise self.wrong(f"must be {bound}, got {described(self.value)}")

    def _wanted(self, what: str) -> ApiError:
        return self.wrong(f"must be {what}, got {described(self.value)}", code="invalid_type")

    def _below(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def query_field(query: Mapping[str, str], name: str) -> Field:
    """A field that the query of a URL must have."""
    value = query.get(name)
    if value is None:
        raise ApiError(
            400,
            f"{name} is missing; name it in the query: ?{name}=…",
            code="missing_required_parameter",
            param=name,
        )
    return Field(value, name)


def query_limit(query: Mapping[str, str], *, default: int, most: int) -> int:
    """How many things the query of a URL asks for at most, in ``limit``."""
    given = query.get("limit", str(default))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= most:
        raise ApiError(
            400, f"limit must be a number from 1 to {most}", code="invalid_value", param="limit"
        )
    return int(given)


def refuse_unknown(body: Field, known: Collection[str], *, api: str) -> None:
    """Refuse names that the body must not have: nothing is dropped in silence."""
    for name in body.members():
        if name not in known:
            shown = name if _PLAIN_NAME.fullmatch(name) else None
            raise ApiError(
                400,
                f"{shown or 'one of the fields'} is not known, or nothing here could heed it; "
                f"leave it out of a request of the {api}",
                code="unknown_parameter",
                param=shown,
            )


def _listed(words: Collection[str]) -> str:
    return ", ".join(map(repr, words))
