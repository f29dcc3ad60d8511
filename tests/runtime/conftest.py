from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretell.prefill.engines.tiny import TinyEngine
from foretell.records import Outcome, Query, Sampling
from foretell.runtime import collect, default_read_points, engine_key, observer_of_engine
from foretell.store import Store
from toy_project import strong_observations, toy_outcomes, toy_queries


@pytest.fixture
def engine() -> Iterator[TinyEngine]:
    engine = TinyEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def queries() -> list[Query]:
    return toy_queries()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as store:
        yield store


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory, queries: list[Query]) -> Path:
    """Answers and labels of both models to the toy queries."""
    folder = tmp_path_factory.mktemp("labelled")
    with opened(folder) as store:
        fill(store, TinyEngine(), queries)
    return folder


@pytest.fixture
def labelled_store(labelled_folder: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of the labelled answers, to be changed at will."""
    with opened(Path(shutil.copytree(labelled_folder, tmp_path / "labelled"))) as store:
        yield store


def opened(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'foretell.db'}", folder / "vectors")


def fill(store: Store, engine: TinyEngine, queries: list[Query]) -> None:
    collect(
        store,
        queries,
        observer_of_engine(engine, default_read_points(engine.identity)),
        domain="toy",
        role="weak",
        key=engine_key(engine),
        sampling=Sampling(max_tokens=2),
    )
    store.append(strong_observations(queries))
    store.put_outcomes(
        Outcome(
            domain="toy",
            query_id=query.id,
            role=role,
            metric="right",
            value=float(value),
            source="code",
        )
        for query in queries
        for role, value in toy_outcomes(query).items()
    )
