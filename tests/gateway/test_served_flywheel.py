"""The flywheel beside a gateway in its process: it works, and hears what others decided."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, running, settings
from scripted_server import ScriptedServer, answers
from serving import until

from foretell.cli._beside import FlywheelBeside
from foretell.config import Config
from foretell.gateway import Gateway
from foretell.store import Store
from toy_project import foretell


@pytest.fixture
def upstream() -> Iterator[str]:
    with ScriptedServer(otherwise=answers) as server:
        yield server.url


def with_flywheel(upstream: str, **flywheel: Any) -> Any:
    whole = settings(upstream)
    whole["store"] = {"traffic": {"text": True, "vectors": "full"}}
    whole["flywheel"] = {"every_s": 0.2, **flywheel}
    return whole


def probe(served: GatewayProcess) -> str:
    return served.chat().headers["x-foretell-probe"]


def test_a_gateway_labels_its_traffic_itself_and_ends_at_once(toy, upstream):
    labeller = {"toy": {"name": "regex", "options": {"pattern": "."}}}
    config = with_flywheel(upstream, worker="in_process", labellers=labeller)
    with running(toy, config) as served:
        served.is_ready()
        assert served.chat().status_code == 200

        def labelled() -> bool:
            jobs = foretell(toy, "flywheel jobs -c gateway.yaml --json").json()["jobs"]
            return any(
                job["kind"] == "label"
                and "answers labelled by regex" in job["result"].get("words", "")
                for job in jobs
                if job["state"] == "done"
            )

        until(labelled)
        begun = time.monotonic()
        served.send(signal.SIGTERM)
        assert served.ends() == 0
        assert time.monotonic() - begun < 10


def test_what_is_promoted_or_rolled_back_elsewhere_is_served_within_seconds(toy, upstream):
    trained = foretell(toy, "train --domain toy --no-nested --kind linear --seed 1 --json")
    assert trained.json()["probe"] == "toy@2"
    with running(toy, with_flywheel(upstream)) as served:
        served.is_ready()
        assert probe(served) == "toy@2"
        assert foretell(toy, "probes rollback toy -c gateway.yaml").code == 0
        until(lambda: probe(served) == "toy@1")
        assert foretell(toy, "probes promote toy@2 -c gateway.yaml").code == 0
        until(lambda: probe(served) == "toy@2")


def at_toy(toy: Path, upstream: str, **flywheel: Any) -> Config:
    whole = with_flywheel(upstream, **flywheel)
    whole["store"] |= {"url": f"sqlite:///{toy}/foretell.db", "vectors": str(toy / "vectors")}
    whole["probes"] = {"dir": str(toy / "probes")}
    del whole["server"]["admin"]
    return Config(**whole)


async def eventually(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def test_alarms_are_there_for_the_metrics(toy, upstream):
    config = at_toy(toy, upstream)

    async def watched() -> None:
        gateway = Gateway(config)
        try:
            with FlywheelBeside(gateway, every_s=0.05):
                await eventually(lambda: gateway.alarms)
                assert not any(gateway.alarms.values())
                assert gateway.store is not None
                details = {"name": "scores", "alarm": True, "raised": ["scores"]}
                gateway.store.note("drift", "toy", by="me", details=details)
                await eventually(lambda: gateway.alarms["toy", "scores"])
        finally:
            await gateway.close()

    asyncio.run(watched())


def test_only_what_changes_the_service_opens_the_probes_again(toy, upstream):
    config = at_toy(toy, upstream)

    async def watched() -> None:
        gateway = Gateway(config)
        try:
            await gateway.load()
            with FlywheelBeside(gateway, every_s=0.05):
                first = gateway.snapshot
                assert gateway.store is not None
                await eventually(lambda: gateway.alarms)
                gateway.store.note("refit", "toy", by="me", details={})
                gateway.store.note("ladder", "auto/toy", by="me", details={"came_from": None})
                gateway.alarms = {}
                await eventually(lambda: gateway.alarms)
                assert gateway.snapshot is first
                gateway.store.note("ladder", "auto/toy", by="me", details={"came_from": "start"})
                await eventually(lambda: gateway.snapshot is not first)
                second = gateway.snapshot
                gateway.alarms = {}
                await eventually(lambda: gateway.alarms)
                assert gateway.snapshot is second  # told once
        finally:
            await gateway.close()

    asyncio.run(watched())


def test_a_configuration_that_takes_over_starts_and_ends_the_work(toy, upstream):
    off = at_toy(toy, upstream)
    on = at_toy(toy, upstream, worker="in_process")

    def worked() -> bool:
        with Store.open(off.store.url, off.store.vectors) as store:
            return bool(store.jobs())

    async def watched() -> None:
        gateway = Gateway(off)
        try:
            await gateway.load()
            with FlywheelBeside(gateway, every_s=0.05) as beside:
                await eventually(lambda: gateway.alarms)
                assert beside._working is None
                await gateway.change(on, by="me")
                await eventually(worked)
                await gateway.change(off, by="me")
                await eventually(lambda: beside._working is None)
        finally:
            await gateway.close()

    asyncio.run(watched())


def test_a_gateway_without_a_store_has_nothing_to_hear(toy, upstream):
    config = at_toy(toy, upstream)
    server = config.server.model_copy(update={"record": False})

    async def watched() -> None:
        gateway = Gateway(config.model_copy(update={"server": server}))
        try:
            with FlywheelBeside(gateway) as beside:
                assert beside._watching.ident is None
        finally:
            await gateway.close()

    asyncio.run(watched())
