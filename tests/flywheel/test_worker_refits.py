"""A worker takes a domain from new labels to a probe on trial, and to one that serves."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flywheel_world import chance, opened, outcomes, put, request, vectors

from foretell.config import Config
from foretell.flywheel import Worker, flywheel_status
from foretell.flywheel._duties import work_on
from foretell.flywheel._duty_state import state_of_domain
from foretell.flywheel._queue import JobQueue
from foretell.records import Job
from foretell.runtime import serving_version, shadow_version, train_probe
from foretell.store import Store
from toy_project import CONFIG, changed

EVERY_S = 60.0
MORE = 500


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def here(job: Job, config: Config, queue: JobQueue, _: threading.Event) -> None:
    work_on(job, config, queue)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    raw = changed(CONFIG, routes__auto__domain="made-up")
    return Config(
        **raw,
        store={"url": f"sqlite:///{tmp_path}/foretell.db", "vectors": str(tmp_path / "vectors")},
        probes={"dir": str(tmp_path / "probes")},
        flywheel={
            "every_s": EVERY_S,
            "refit": {"every_h": None, "new_labels": MORE, "shadow_labels": 100},
        },
    )


def trial(store: Store, clock: Clock, n: int) -> None:
    """Requests that the candidate foretells right and the serving probe does not."""
    rng = np.random.default_rng(8)
    rows = vectors(n, rng)
    store.append_requests(
        [
            request(
                f"live-{i}",
                clock.now + i / n,
                p_success=0.5,
                probe="made-up@1",
                shadow_probe="made-up@2",
                shadow_p_success=float(p),
            )
            for i, p in enumerate(chance(rows))
        ]
    )
    put(store, "live", rows, outcomes(rows, rng), origin="traffic")


def test_new_labels_bring_a_probe_on_trial_and_its_own_labels_promote_it(tmp_path, config, clock):
    rng = np.random.default_rng(0)
    probes = config.probes.dir
    with opened(tmp_path, clock) as store:

        def worked() -> dict[str, Job]:
            clock.now += 20 * EVERY_S
            worker = Worker(
                config, open_store=lambda: opened(tmp_path, clock), workplace=here, clock=clock
            )
            return {job.kind: job for job in worker.tick() if job.kind in ("refit", "promotion")}

        few, held = vectors(60, rng), vectors(300, rng)
        put(store, "first", few, outcomes(few, rng))
        put(store, "held", held, outcomes(held, rng), split="test")
        now = datetime.fromtimestamp(clock.now, UTC)
        train_probe(store, "made-up", probes, now=now, nested=False, kinds=("linear",))
        assert worked() == {}

        more = vectors(MORE, rng)
        put(store, "more", more, outcomes(more, rng))
        refit = worked()["refit"]
        assert refit.state == "done", refit.message
        assert refit.args["reason"] == "860 new labels"
        assert "version 2 is on trial" in refit.result["words"]
        assert (serving_version(probes, "made-up"), shadow_version(probes, "made-up")) == (1, 2)
        (status,) = flywheel_status(store, config, now=clock.now)
        assert status.shadow == 2
        assert "no other one while version 2 is on trial" in status.refit

        first_look = worked()["promotion"]
        assert "version 2 is still on trial: 0 of 100" in first_look.result["words"]
        assert worked() == {}  # nothing is new

        trial(store, clock, n=120)
        promotion = worked()["promotion"]
        assert "version 2 is promoted" in promotion.result["words"]
        assert serving_version(probes, "made-up") == 2
        assert [event.by for event in store.events(kind="promoted")] == ["worker"]
        (status,) = flywheel_status(store, config, now=clock.now)
        assert (status.serving, status.shadow) == (2, None)
        assert status.judged is not None
        assert status.judged.kind == "promoted"
        assert "at 500 new labels (120 so far)" in status.refit


def test_only_a_raised_alarm_about_the_probe_that_serves_asks_for_another(tmp_path, config, clock):
    rng = np.random.default_rng(0)
    with opened(tmp_path, clock) as store:
        rows = vectors(60, rng)
        put(store, "first", rows, outcomes(rows, rng))
        now = datetime.fromtimestamp(clock.now, UTC)
        train_probe(store, "made-up", config.probes.dir, now=now, nested=False, kinds=("linear",))

        def alarm() -> str | None:
            state = state_of_domain(store, config, "made-up", {}, clock.now)
            return None if state.drift is None else state.drift.details["name"]

        def note(kind: str, name: str, probe: str, *, raised: bool) -> None:
            clock.now += 1
            details = {"name": name, "alarm": raised, "probe": probe}
            whole = {**details, "raised": [name] if raised else []} if kind == "drift" else details
            store.note(kind, "made-up", by="test", details=whole)

        assert alarm() is None
        note("drift", "scores", "made-up@0", raised=True)
        assert alarm() is None
        note("drift", "vectors", "made-up@1", raised=True)
        assert alarm() == "vectors"
        note("drift", "vectors", "made-up@1", raised=False)
        assert alarm() is None
        note("stale", "stale", "made-up@1", raised=True)
        assert alarm() == "stale"
