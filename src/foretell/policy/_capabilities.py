"""What a request needs against what a model can do, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a request asks of whoever answers it.

    ``images`` stands for pictures and files, ``audio`` for sound in or out. ``prompt_tokens`` and
    ``answer_tokens`` are ``None`` while nobody has counted them, or where no limit was asked for.
    ``other`` names features that only some models have, such as ``n`` or ``logprobs``.
    """

    tools: bool = False
    images: bool = False
    audio: bool = False
    json_schema: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    other: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a model can take.

    ``context_tokens`` is the most tokens of a prompt and its answer; ``None`` where nobody has
    said. ``other`` names the further features it has; ``None`` for all of them, as behind an API
    that turns down by itself what it does not know.
    """

    tools: bool = True
    images: bool = True
    audio: bool = True
    json_schema: bool = True
    context_tokens: int | None = None
    other: frozenset[str] | None = None


def missing(needs: Needs, abilities: Abilities) -> tuple[str, ...]:
    """What keeps a model from serving a request, in words; empty when nothing does.

    In this order: ``tools``, ``images``, ``audio``, ``json_schema``, ``context``, then the names of
    other features by the alphabet. A length that nobody has counted is none: the context is missing
    only where what is known of the request exceeds it already.
    """
    asked = (
        ("tools", needs.tools and not abilities.tools),
        ("images", needs.images and not abilities.images),
        ("audio", needs.audio and not abilities.audio),
        ("json_schema", needs.json_schema and not abilities.json_schema),
        ("context", _too_long(needs, abilities.context_tokens)),
    )
    further = frozenset[str]() if abilities.other is None else needs.other - abilities.other
    return (*(word for word, lacks in asked if lacks), *sorted(further))


def _too_long(needs: Needs, context_tokens: int | None) -> bool:
    if context_tokens is None:
        return False
    return (needs.prompt_tokens or 0) + (needs.answer_tokens or 0) > context_tokens
