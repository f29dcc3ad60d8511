"""What a gateway keeps of its callers and of each request; never the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foretell.errors import InputError
from foretell.records._decisions import Action
from foretell.records._models import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredUsage:
    """Tokens of one answer as its provider counted them.

    ``cached_tokens`` are part of ``prompt_tokens``, ``reasoning_tokens`` of ``completion_tokens``.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that was served, as the ledger keeps it. Times are seconds since 1970 (UTC).

    ``key_id`` is the caller's, ``""`` when the gateway asks for none. ``route`` is ``None`` for a
    real model that was asked for by name. ``model`` is who answered, by its name in the
    configuration; ``serve`` its role in the route. ``weak_usd`` is what the weak model cost, a
    prefill that was thrown away included, ``strong_usd`` what the others cost, failed attempts that
    reported usage included; their sum is ``cost_usd``. ``always_strong_usd`` is what the first
    strong model would have cost; an estimate where another one answered. All four are ``None``
    when not known: an unknown cost is not none. ``seconds`` is the whole request, ``overhead_s``
    what of it was neither the upstream nor the weak model. ``explored`` says that chance flipped
    the decision, ``propensity`` how likely the action taken was.

    ``weak_model`` is the store's key of the weak model that was foretold. ``weak_chance`` is how
    likely it was that its answer to this query would be known: that it served, or was asked
    afterwards in a shadow run; ``None`` where a caller or a conversation chose, so that the query
    says nothing about the rule; ``pair_chance`` the same of both models' answers, since one of them
    was asked in a shadow run. ``shadow_p_success`` is what ``shadow_probe``, which is on trial,
    foretold.
    """

    id: str
    at: float
    key_id: str
    route: str | None
    domain: str | None
    model: str
    serve: Role | None
    action: Action
    cause: str | None
    status: int
    streamed: bool
    p_success: float | None = None
    p_strong: float | None = None
    keep_at: float | None = None
    propensity: float | None = None
    explored: bool = False
    probe: str | None = None
    session: str | None = None
    usage: MeteredUsage | None = None
    weak_usd: float | None = None
    strong_usd: float | None = None
    cost_usd: float | None = None
    always_strong_usd: float | None = None
    seconds: float = 0.0
    first_byte_s: float | None = None
    prefill_s: float | None = None
    overhead_s: float | None = None
    finish_reason: str | None = None
    weak_model: str | None = None
    weak_chance: float | None = None
    pair_chance: float | None = None
    shadow_probe: str | None = None
    shadow_p_success: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What somebody says about one answer; one per (request, metric, source, author).

    ``value`` is 1 for success and 0 for failure, or a rate in between.
    """

    request_id: str
    metric: str
    value: float
    source: Literal["human", "code", "judge", "client"]
    author: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise InputError(
                f"feedback on {self.request_id!r} has the value {self.value}; wanted 0 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What the owner of one API key may do; ``None`` sets no limit.

    ``routes`` are the names of routes and models it may ask for. ``requests_per_minute`` is a
    steady rate, of which a burst of one minute's worth is allowed at once. ``usd_per_day`` and
    ``escalations_per_day`` start again at midnight UTC.
    """

    routes: tuple[str, ...] | None = None
    requests_per_minute: float | None = None
    concurrent: int | None = None
    usd_per_day: float | None = None
    escalations_per_day: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A caller's key, of which only the SHA-256 is kept.

    ``id`` is public; it names the key in ledgers. ``created_at`` and ``revoked_at`` are seconds
    since 1970 (UTC).
    """

    id: str
    name: str
    sha256: str
    limits: KeyLimits
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """A day's requests of one key and route; sums leave out what is not known, and count it."""

    day: str
    key_id: str
    route: str | None
    requests: int
    kept: int
    escalated: int
    declined: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    weak_usd: float
    always_strong_usd: float

    @property
    def net_saving_usd(self) -> float:
        """What routing saved against always asking the first strong model; may be negative."""
        return self.always_strong_usd - self.cost_usd
