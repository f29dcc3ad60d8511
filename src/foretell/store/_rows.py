"""Records as rows of the tables, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, select

from foretell.records import Answer, FirstToken, ModelIdentity, Observation, Query, Usage
from foretell.store import _tables
from foretell.store._keys import model_key


def key_of(observation: Observation) -> str:
    """The key of the model that answered."""
    return model_key(observation.model or observation.answer.model)


def query_row(observation: Observation, recorded_at: float) -> dict[str, Any]:
    """One row of ``queries``."""
    query = observation.query
    return {
        "domain": observation.domain,
        "id": query.id,
        "messages": [dict(message) for message in query.messages],
        "reference": query.reference,
        "group_id": query.group,
        "split": query.split,
        "attributes": dict(query.attributes),
        "recorded_at": recorded_at,
        "tenant": observation.tenant,
        "origin": observation.origin,
    }


def query_of(row: Any) -> Query:
    """The query of a row of ``queries``."""
    return Query(
        id=row.id,
        messages=tuple(row.messages),
        reference=row.reference,
        group=row.group_id,
        split=row.split,
        attributes=row.attributes,
    )


def observation_row(
    observation: Observation, place: tuple[str, int] | None, recorded_at: float
) -> dict[str, Any]:
    """One row of ``observations``; ``place`` is the shard and row of its vectors."""
    answer, first_token = observation.answer, observation.first_token
    shard, row = place or (None, None)
    return {
        "domain": observation.domain,
        "query_id": observation.query.id,
        "role": observation.role,
        "model_key": key_of(observation),
        "rollout": observation.rollout,
        "answer_text": answer.text,
        "answer_model": answer.model,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cached_tokens": answer.usage.cached_tokens,
        "mean_logprob": answer.mean_logprob,
        "first_token": None if first_token is None else asdict(first_token),
        "own_tokens": observation.own_tokens,
        "seconds": observation.seconds,
        "vector_shard": shard,
        "vector_row": row,
        "recorded_at": recorded_at,
    }


def select_observations() -> Select[Any]:
    """All columns of ``observations``, with those of the query and the model's identity."""
    query = _tables.queries.c
    return (
        select(
            _tables.observations,
            query.messages,
            query.reference,
            query.group_id,
            query.split,
            query.attributes,
            query.tenant,
            query.origin,
            _tables.models.c.identity,
        )
        .join(_tables.queries)
        .join(_tables.models)
    )


def observation_of(row: Any) -> Observation:
    """The observation, without vectors, of a row of ``select_observations``."""
    return Observation(
        domain=row.domain,
        query=Query(
            id=row.query_id,
            messages=tuple(row.messages),
            reference=row.reference,
            group=row.group_id,
            split=row.split,
            attributes=row.attributes,
        ),
        role=row.role,
        model=None if row.identity is None else ModelIdentity(**row.identity),
        rollout=row.rollout,
        answer=Answer(
            text=row.answer_text,
            model=row.answer_model,
            finish_reason=row.finish_reason,
            usage=Usage(
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                cached_tokens=row.cached_tokens,
            ),
            mean_logprob=row.mean_logprob,
        ),
        first_token=None if row.first_token is None else FirstToken(**row.first_token),
        own_tokens=row.own_tokens,
        seconds=row.seconds,
        tenant=row.tenant,
        origin=row.origin,
    )
