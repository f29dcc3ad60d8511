"""The whole loop over HTTP: from an empty folder to a probe that serves, back again, and gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, running, settings
from scripted_server import ScriptedServer, answers

from toy_project import DIRECTIONS, foretell

KEY = {"authorization": "Bearer key-one"}
STOPS = ["P", "9", "n", "t"]
"""Letters of which the tiny model soon writes one."""
BY_ANN = {"domain": "toy", "metric": "right", "author": "ann"}


def loop_settings(upstream: str) -> Any:
    whole = settings(
        upstream,
        server={"api_keys_env": "T_LOOP_KEYS"},
        router="auto",
        # Nearly all is explored, so that some hundred requests are enough.
        explore=0.9,
        goal={"threshold": 0.5},
    )
    whole["store"] = {"traffic": {"text": True, "vectors": "full"}}
    whole["flywheel"] = {
        "worker": "in_process",
        "every_s": 0.2,
        "refit": {"shadow_labels": 20, "every_h": None, "new_labels": None},
    }
    return whole


def ask(served: GatewayProcess, numbers: range) -> None:
    """One question after the other, to the north and the south in turn, alike in length."""

    def one(number: int) -> None:
        asked = f"Which town in the {DIRECTIONS[number % 2]} is nr {number}?"
        # An answer that is cut at its limit cannot be called wrong, so each ends by a stop string.
        reply = served.chat([{"role": "user", "content": asked}], KEY, max_tokens=12, stop=STOPS)
        assert reply.status_code == 200, reply.text

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, numbers))


def judge(served: GatewayProcess) -> int:
    """A person judges all answers that wait; right are those about the north."""
    judged = 0
    while True:
        query = {**BY_ANN, "limit": "200"}
        found = served.admin("GET", "labels", params=query)
        assert found.status_code == 200, found.text
        if not (waiting := found.json()["data"]):
            return judged
        labels = [
            {"key": item["key"], "verdict": "right" if "north" in item["question"] else "wrong"}
            for item in waiting
        ]
        kept = served.admin("POST", "labels", json={**BY_ANN, "labels": labels}).json()
        assert kept["unknown"] == kept["truncated"] == 0
        judged += len(labels)


def events(served: GatewayProcess, kind: str) -> list[Any]:
    return served.admin("GET", "events", params={"kind": kind}).json()["data"]


def eventually(true: Callable[[], object], served: GatewayProcess, within_s: float = 60) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, [
            (job["kind"], job["state"], job["message"], job["result"].get("words"))
            for job in served.admin("GET", "jobs").json()["data"]
        ]
        time.sleep(0.2)


def probe(served: GatewayProcess) -> str | None:
    return served.chat(headers=KEY).headers.get("x-foretell-probe")


@pytest.mark.slow
def test_from_an_empty_folder_to_a_probe_and_back(tmp_path: Path):
    with (
        ScriptedServer(otherwise=answers) as upstream,
        running(
            tmp_path,
            loop_settings(upstream.url),
            T_LOOP_KEYS="key-one,key-two",
            # No sentence encoder, which would tell as much of these questions as the activations.
            FORETELL_CACHE=str(tmp_path / "cache"),
            PIP_NO_INDEX="1",
        ) as served,
    ):
        served.is_ready()
        # Nothing is known yet, so nothing is promised.
        assert served.chat(headers=KEY).headers["x-foretell-decision"] in ("escalate", "explore")
        ask(served, range(400))
        assert judge(served) > 300
        # The ladder finds that activations tell more than rules, and a first probe is tried.
        eventually(lambda: events(served, "shadow"), served)
        (holdout,) = events(served, "holdout")
        assert holdout["details"]["trusted"] == ["code", "human"]
        ask(served, range(400, 560))
        assert judge(served) > 100
        eventually(lambda: events(served, "promoted"), served)
        eventually(lambda: probe(served) == "toy@1", served)
        status = foretell(tmp_path, "flywheel status -c gateway.yaml --json").json()
        assert status["domains"][0]["serving"] == 1

        # A second one is no better; who serves it all the same can take it back.
        assert served.admin("POST", "jobs", json={"kind": "refit", "domain": "toy"}).json()["id"]
        eventually(lambda: len(events(served, "refit")) == 2, served)
        assert served.admin("POST", "probes/toy/promote", json={"version": 2}).status_code == 200
        assert probe(served) == "toy@2"
        back = served.admin("POST", "probes/toy/rollback", json={"why": "it was no better"})
        assert (back.json()["serving"], back.json()["before"]) == (1, 2)
        assert probe(served) == "toy@1"
        assert events(served, "rolled_back")[0]["details"]["why"] == "it was no better"

        # Whoever asked all this can have it erased while the gateway serves.
        stats = foretell(tmp_path, "data stats -c gateway.yaml --json").json()
        (tenant,) = (one["tenant"] for one in stats["tenants"])
        served.admin("GET", "ledger")  # all that was served is stored
        erased = foretell(
            tmp_path, f"data delete --yes --tenant {tenant} -c gateway.yaml --json"
        ).json()
        assert erased["queries_erased"] > 400
        assert served.get("/readyz").status_code == 200
        served.send(signal.SIGTERM)
        assert served.ends() == 0
    assert foretell(tmp_path, "data check -c gateway.yaml --json").json()["ok"]
    kept = b"".join(path.read_bytes() for path in files_of_store(tmp_path))
    assert b"Which town" not in kept


def files_of_store(folder: Path) -> list[Path]:
    found = [
        Path(place) / name for place, _, names in os.walk(folder / "vectors") for name in names
    ]
    return [*found, *folder.glob("foretell.db*")]
