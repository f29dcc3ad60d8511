from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from foretell.records import (
    Answer,
    FirstToken,
    ModelIdentity,
    Observation,
    Query,
    ReadPoint,
    RequestRecord,
    Role,
    Usage,
)
from foretell.store import Store

WIDTH = 4

# URL of a database to be emptied again and again, such as
# postgresql+psycopg://tester@127.0.0.1/foretell_test
POSTGRESQL = os.environ.get("FORETELL_TEST_POSTGRESQL", "")


@pytest.fixture
def identity() -> ModelIdentity:
    return ModelIdentity(
        source="tiny",
        weights_sha256="a" * 64,
        chat_template_sha256="b" * 64,
        engine="tiny",
        n_layers=2,
        width=WIDTH,
    )


@pytest.fixture
def observe(identity: ModelIdentity) -> Callable[..., Observation]:
    """Makes the observation of a query; activations follow from its id, which is a number."""

    def make(
        query_id: str,
        role: Role = "weak",
        *,
        text: str = "Paris",
        prompt: str | None = None,
        api_model: str | None = None,
        points: tuple[ReadPoint, ...] = (ReadPoint(0), ReadPoint(1, "mean")),
        query: dict[str, Any] | None = None,
        **others: Any,
    ) -> Observation:
        by_api = role == "strong" or api_model is not None
        fields: dict[str, Any] = {
            "domain": "geo",
            "model": None if by_api else identity,
            "activations": {}
            if by_api
            else {
                point: np.arange(WIDTH, dtype=np.float32) + float(query_id) + 100 * point.layer
                for point in points
            },
        }
        return Observation(
            query=Query(
                id=query_id,
                messages=({"role": "user", "content": prompt or f"question {query_id}"},),
                **(query or {}),
            ),
            role=role,
            answer=Answer(
                text=text,
                model=api_model or ("big-1" if by_api else "tiny"),
                finish_reason="stop",
                usage=Usage(prompt_tokens=30, completion_tokens=5, cached_tokens=20),
                mean_logprob=-0.5,
            ),
            **{**fields, **others},
        )

    return make


@pytest.fixture
def first_token() -> FirstToken:
    return FirstToken(entropy=1.5, margin=0.25, probability=0.5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/foretell.db", tmp_path / "vectors") as opened:
        yield opened


NOW = 1_767_225_600.0 + 7 * 3600  # 7 o'clock on 1 January 2026 (UTC)


@pytest.fixture
def postgresql_url() -> str:
    return POSTGRESQL


@pytest.fixture
def empty_postgresql(postgresql_url: str) -> str:
    """URL of the PostgreSQL database, which is empty; skips the test where there is none."""
    if not postgresql_url:
        pytest.skip("no PostgreSQL here; 'make test-postgresql' brings one")
    empty(postgresql_url)
    return postgresql_url


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRESQL else [])])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store, in turn on every database there is; its clock stands at ``NOW``."""
    url = f"sqlite:///{tmp_path}/foretell.db"
    if request.param == "postgresql":
        url = POSTGRESQL
        empty(url)
    with Store.open(url, tmp_path / "vectors", clock=lambda: NOW) as opened:
        yield opened


def empty(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


@pytest.fixture
def served() -> Callable[..., RequestRecord]:
    """Makes the record of a request, by default a kept one of the first key this morning."""

    def make(request_id: str, **others: Any) -> RequestRecord:
        fields: dict[str, Any] = {
            "at": NOW,
            "key_id": "key-1",
            "route": "auto",
            "domain": "geo",
            "model": "small",
            "serve": "weak",
            "action": "keep",
            "cause": None,
            "status": 200,
            "streamed": False,
        }
        return RequestRecord(id=request_id, **{**fields, **others})

    return make
