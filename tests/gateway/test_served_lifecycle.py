"""A gateway in a process of its own: how it starts, reloads, drains and ends."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from gateway_process import GatewayProcess, running, settings
from serving import ESCALATED, KEPT, port_of, sse_data, until, upstream

from toy_project import foretell, refused
from upstreams.scripted_server import (
    WHOLE,
    ScriptedServer,
    answers,
    chunk,
    nobody_there,
    streams,
)

OFF = {"x-foretell-route": "off"}


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def slow_stream(*, pieces: int, pause_s: float) -> Any:
    return streams(*(part for _ in range(pieces) for part in (chunk("la "), pause_s)), *WHOLE)


class Streaming:
    """One stream that is being read on a thread."""

    def __init__(self, served: GatewayProcess) -> None:
        self.text = ""
        self.error: Exception | None = None
        self._served = served
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        body = {"model": "auto", "messages": KEPT, "stream": True}
        url = f"{self._served.url}/v1/chat/completions"
        try:
            with httpx2.stream("POST", url, json=body, headers=OFF, timeout=20) as response:
                for text in response.iter_text():
                    self.text += text
        except httpx2.HTTPError as error:
            self.error = error

    def __enter__(self) -> Streaming:
        self._thread.start()
        until(lambda: "la " in self.text)
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()

    def ends(self) -> list[str]:
        self._thread.join()
        assert self.error is None
        return sse_data(self.text)


def test_a_signal_lets_answers_end_and_takes_no_more(toy: Path, large: ScriptedServer) -> None:
    large.script(slow_stream(pieces=8, pause_s=0.1))
    with running(toy, settings(large.url)) as served:
        served.is_ready()
        idle = socket.create_connection(("127.0.0.1", port_of(served.url)), timeout=20)
        with idle, Streaming(served) as stream:
            served.send(signal.SIGTERM)
            assert idle.recv(1) == b""
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{served.url}/healthz")
            events = stream.ends()
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["foretell"]["decision"] == "bypass"
        assert served.ends() == 0
    assert "Traceback" not in served.stderr
    with sqlite3.connect(toy / "foretell.db") as database:
        rows = database.execute("select status, completion_tokens from requests").fetchall()
    database.close()
    assert rows == [(200, 3)]


@pytest.mark.parametrize("how", ["late", "second signal"])
def test_an_answer_that_takes_too_long_is_cut_short_with_an_error(
    toy: Path, large: ScriptedServer, how: str
) -> None:
    large.script(slow_stream(pieces=400, pause_s=0.05))
    drain_s = 0.3 if how == "late" else 30
    with running(toy, settings(large.url, server={"drain_s": drain_s})) as served:
        served.is_ready()
        with Streaming(served) as stream:
            served.send(signal.SIGINT)
            if how == "second signal":
                until(lambda: not _accepts(served.url))
                served.send(signal.SIGINT)
            events = stream.ends()
        assert served.ends() == 0
    assert json.loads(events[-1])["error"]["code"] == "stopping"
    assert "[DONE]" not in events
    assert "1 requests are cut short" in served.stderr
    with sqlite3.connect(toy / "foretell.db") as database:
        rows = database.execute("select status from requests").fetchall()
    database.close()
    assert rows == [(503,)]


def test_it_answers_while_the_model_is_loaded(toy: Path, large: ScriptedServer) -> None:
    with running(toy, settings(large.url), slow_to_load=True) as served:
        ready = served.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "loading")
        assert ready.json()["routes"] == {"auto": {"ready": False, "cause": "weak_loading"}}
        assert served.get("/healthz").status_code == 200
        answer = served.chat()
        assert answer.headers["x-foretell-decision"] == "declined"
        assert answer.headers["x-foretell-cause"] == "weak_loading"
        assert answer.json()["model"] == "big-1-2030"
        (toy / "load-now").touch()
        served.is_ready()
        assert served.chat().headers["x-foretell-decision"] == "keep"
        assert served.get("/readyz").json()["routes"] == {"auto": {"ready": True}}


def test_it_ends_though_the_model_is_still_being_loaded(toy: Path, large: ScriptedServer) -> None:
    with running(toy, settings(large.url), slow_to_load=True) as served:
        assert served.chat().headers["x-foretell-cause"] == "weak_loading"
        served.send(signal.SIGTERM)
        assert served.ends() == 0
    assert "still being loaded" in served.stderr
    with sqlite3.connect(toy / "foretell.db") as database:
        assert database.execute("select cause from requests").fetchall() == [("weak_loading",)]
    database.close()


def test_it_reads_its_configuration_again_and_keeps_the_old_one_when_that_is_bad(
    toy: Path, large: ScriptedServer
) -> None:
    config = settings(large.url)
    with running(toy, config) as served:
        served.is_ready()
        before = served.admin("GET", "config").json()
        assert served.chat(ESCALATED).headers["x-foretell-decision"] == "escalate"

        config["routes"]["auto"]["goal"] = {"threshold": 0.0}
        (toy / "gateway.yaml").write_text(yaml.safe_dump(config))
        served.send(signal.SIGHUP)
        served.says("the configuration was read again")
        assert served.chat(ESCALATED).headers["x-foretell-decision"] == "keep"
        now = served.admin("GET", "config").json()
        assert now["hash"] == now["file_hash"] != before["hash"]
        assert now["by"] == "SIGHUP"

        config["routes"]["auto"]["goal"] = {"quality": 2}
        (toy / "gateway.yaml").write_text(yaml.safe_dump(config))
        served.send(signal.SIGHUP)
        served.says("the configuration stays as it was")
        assert "routes.auto.goal.quality" in served.stderr
        assert served.admin("GET", "config").json()["hash"] == now["hash"]
        assert served.admin("GET", "config").json()["file_hash"] is None
        assert served.chat(ESCALATED).headers["x-foretell-decision"] == "keep"


def test_a_request_under_way_keeps_its_configuration(toy: Path, large: ScriptedServer) -> None:
    large.script(slow_stream(pieces=10, pause_s=0.1))
    with running(toy, settings(large.url)) as served, upstream(otherwise=answers) as other:
        served.is_ready()
        with Streaming(served) as stream:
            changed = served.admin("GET", "config").json()["config"]
            changed["models"]["large"]["base_url"] = other.url
            assert served.admin("POST", "config", json=changed).status_code == 200
            assert "[DONE]" not in stream.text
            assert served.chat(headers=OFF).status_code == 200
            assert len(other.requests) == 1
            events = stream.ends()
        assert events[-1] == "[DONE]"
        assert sum('"la "' in event for event in events) == 10


def test_it_starts_with_a_broken_strong_model_and_says_so(toy: Path) -> None:
    config = settings(nobody_there())
    config["models"]["keyless"] = {**config["models"]["large"], "api_key_env": "T_NOT_SET"}
    with running(toy, config) as served:
        served.is_ready()
        assert served.chat(KEPT).headers["x-foretell-decision"] == "keep"
        served.says("model 'large' cannot be called at the moment")
        served.says("the environment variable T_NOT_SET, which is to hold its key, is not set")
        answer = served.chat(ESCALATED)
        assert answer.headers["x-foretell-decision"] == "fallback"
        assert answer.headers["x-foretell-model"] == "small"


def test_a_killed_gateway_has_kept_what_it_confirmed(toy: Path, large: ScriptedServer) -> None:
    with running(toy, settings(large.url)) as served:
        served.is_ready()
        ids = [served.chat().headers["x-request-id"] for _ in range(10)]
        given = {"request_id": ids[-1], "metric": "right", "value": 1, "source": "human"}
        taken = httpx2.post(f"{served.url}/v1/feedback", json=given)
        assert taken.status_code == 200
        served.chat()  # may be lost
        served.process.kill()
    with sqlite3.connect(toy / "foretell.db") as database:
        rows = database.execute("select request_id, value from feedback").fetchall()
        assert rows == [(ids[-1], 1.0)]
        kept = [row[0] for row in database.execute("select id from requests order by at")]
        assert kept[:10] == ids
    database.close()


def test_nothing_secret_and_nothing_said_is_ever_logged(toy: Path, large: ScriptedServer) -> None:
    canaries = {
        "caller": "canary-caller-key",
        "upstream": "canary-upstream-key",
        "admin": "canary-admin-token",
    }
    prompt = "canary-prompt-text"
    config = settings(large.url, server={"api_keys_env": "T_CALLERS"})
    config["models"]["large"]["api_key_env"] = "T_UPSTREAM"
    environment = {
        "T_CALLERS": canaries["caller"],
        "T_UPSTREAM": canaries["upstream"],
        "T_ADMIN_TOKENS": f"admin:{canaries['admin']}",
    }
    key = {"authorization": f"Bearer {canaries['caller']}"}

    async def says_what_it_was_sent(request: Any) -> Any:
        from aiohttp import web

        text = f"{request.headers['Authorization']} {await request.text()}"
        return web.json_response({"error": {"message": text}}, status=500)

    async def breaks(request: Any) -> Any:
        raise RuntimeError(await request.text())

    with running(toy, config, "--log-level", "debug", **environment) as served:
        until(lambda: served.get("/readyz").status_code == 200)
        asked = [{"role": "user", "content": f"{prompt}: which town in the south is nr 3?"}]
        served.chat(asked, key)
        served.chat(asked, {**key, "x-foretell-route": "weak"})
        served.chat(asked, {"authorization": "Bearer canary-caller-key-but-wrong"})
        served.chat(asked, key, model=prompt)
        served.chat(asked, key, **{prompt: {}}, temperature=prompt)
        served.chat(asked, {**key, "x-foretell-session": prompt, "x-foretell-route": prompt})
        large.script(*[says_what_it_was_sent] * 4, *[breaks] * 2)
        for stream in (False, True, False):
            served.chat(asked, {**key, **OFF}, stream=stream)
        large.scripts.clear()
        httpx2.post(
            f"{served.url}/v1/feedback",
            json={
                "request_id": "x",
                "metric": prompt,
                "note": prompt,
                "value": 1,
                "source": "code",
            },
            headers=key,
        )
        with socket.create_connection(("127.0.0.1", port_of(served.url))) as connected:
            connected.sendall(f"{prompt} {canaries['caller']}\r\n\r\n".encode())
            connected.recv(100)
        bad = {"models": {canaries["upstream"]: {"engine": prompt}}}
        told = served.admin(
            "POST", "config", json=bad, headers={"authorization": f"Bearer {canaries['admin']}"}
        )
        assert told.status_code == 422
        served.send(signal.SIGTERM)
        assert served.ends() == 0
    assert len(served.log) > 5
    for canary in (*canaries.values(), prompt):
        assert canary not in served.stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "structlog"])
def test_what_is_not_installed_is_told(toy: Path, package: str) -> None:
    (toy / "gateway.yaml").write_text(yaml.safe_dump(settings("http://127.0.0.1:9/v1")))
    program = (
        f"import sys; sys.modules[{package!r}] = None; from foretell.cli import main; "
        "sys.argv[1:] = ['serve', '-c', 'gateway.yaml']; main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=toy, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        f"error: serving needs the package {package!r}, which is not installed; install it: "
        "pip install 'foretell[serve]'"
    ]


def test_a_port_that_is_taken_is_told(toy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (toy / "gateway.yaml").write_text(yaml.safe_dump(settings("http://127.0.0.1:9/v1")))
        finished = foretell(toy, f"serve -c gateway.yaml --port {port}")
        refused(finished, f"cannot listen on 127.0.0.1 port {port}", "in use")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0"}, "no API keys are asked for"),  # noqa: S104
        ({"host": "nobody.invalid"}, "no API keys are asked for"),
        ({"api_keys_env": "T_NOT_SET"}, "T_NOT_SET is not set"),
        ({"admin": {"port": 0, "token_env": "T_NOT_SET"}}, "T_NOT_SET is not set"),
    ],
)
def test_it_does_not_start_unsafely(
    toy: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T_ADMIN_TOKENS", "admin:token")
    config = settings("http://127.0.0.1:9/v1", server=changes)
    (toy / "gateway.yaml").write_text(yaml.safe_dump(config))
    refused(foretell(toy, "serve -c gateway.yaml --port 0"), said)


def _accepts(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=1).close()
    except OSError:
        return False
    return True
