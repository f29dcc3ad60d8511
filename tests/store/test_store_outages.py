"""A disk that is full and a database that is gone for a while, under a recorder that goes on."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import make_url

from foretell.errors import StoreError
from foretell.records import ReadPoint
from foretell.store import Recorder, Store

# No file may grow beyond a limit, which is what a full disk looks like to whoever writes. A shard
# of the 40 requests takes some 3 MB, the database much less.
FULL_DISK = """
import json, resource, sys, time
import numpy as np
from foretell.records import (
    Answer, ModelIdentity, Observation, Query, ReadPoint, RequestRecord, Usage)
from foretell.store import Recorder, Store

folder, most = sys.argv[1], int(sys.argv[2])
identity = ModelIdentity(source="tiny", weights_sha256="a" * 64, chat_template_sha256="b" * 64,
                         engine="tiny", n_layers=2, width=40_000)
answer = Answer(text="a", model="tiny", finish_reason="stop",
                usage=Usage(prompt_tokens=1, completion_tokens=1))
rng = np.random.default_rng(0)
store = Store.open(f"sqlite:///{folder}/a.db", f"{folder}/vectors")
recorder = Recorder(store, interval_s=60, vectors_interval_s=60, longest_wait_s=0.01)

def put(first):
    for number in range(first, first + 40):
        recorder.put(RequestRecord(
            id=str(number), at=float(number), key_id="", route="auto", domain="geo", model="m",
            serve="weak", action="keep", cause=None, status=200, streamed=False, session="x" * 500),
            [Observation(
                domain="geo", role="weak", model=identity, answer=answer, origin="traffic",
                query=Query(id=str(number), messages=({"role": "user", "content": "x" * 500},)),
                activations={ReadPoint(0): rng.normal(size=40_000).astype(np.float32)})])

put(0)
assert recorder.flush(20)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))
put(40)
flushed = recorder.flush(0.5)
seen = {"flushed": flushed, "error": str(recorder.error), "queued": recorder.queued,
        "queued_vectors": recorder.queued_vectors}
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
seen["flushed_after"] = recorder.flush(20)
seen["error_after"] = recorder.error
seen["shed"] = [recorder.shed, recorder.shed_observations, recorder.shed_vectors]
recorder.close()
store.close()
print(json.dumps(seen))
"""


@pytest.mark.parametrize(("most_kb", "what"), [(1, "rows"), (1500, "vectors")])
def test_what_a_full_disk_does_not_take_is_kept_until_it_does(tmp_path, most_kb, what):
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(most_kb * 1000)]
    ended = subprocess.run(program, capture_output=True, text=True, check=True)
    seen = json.loads(ended.stdout)
    assert not seen["flushed"]
    assert seen["queued_vectors"] == 40
    assert (seen["queued"] > 0) == (what == "rows")
    assert seen["error"] != "None"
    assert (seen["flushed_after"], seen["error_after"]) == (True, None)
    assert seen["shed"] == [0, 0, 0]
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
        data = store.load_routing_data("geo", read_points=[ReadPoint(0)])
        assert len(data) == 80
        assert len(store.requests(limit=1000)) == 80
    assert not list((tmp_path / "vectors").glob("*.tmp"))


class Wire:
    """A way to a server that can be cut, and mended at the same address."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accept()

    def cut(self) -> None:
        # closing alone does not wake the thread that accepts
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept()

    def _accept(self) -> None:
        def accept(listener: socket.socket) -> None:
            while True:
                try:
                    client, _ = listener.accept()
                    server = socket.create_connection(self._server)
                except OSError:
                    return
                with self._lock:
                    self._ends += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=accept, args=(self._listener,), daemon=True).start()


@pytest.fixture
def wire(empty_postgresql) -> Iterator[tuple[Wire, str]]:
    url = make_url(empty_postgresql)
    wire = Wire(str(url.host), int(url.port or 5432))
    yield wire, url.set(host="127.0.0.1", port=wire.port).render_as_string()
    wire.cut()


def wait_until(claim: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_recorder_keeps_what_comes_while_postgresql_is_gone(wire, tmp_path, served, observe):
    way, url = wire
    with (
        Store.open(url, tmp_path / "vectors") as store,
        Recorder(store, interval_s=0.01, longest_wait_s=0.05) as recorder,
    ):
        recorder.put(served("0"), [observe("0", origin="traffic")])
        assert recorder.flush(20)
        way.cut()
        for i in range(1, 50):
            recorder.put(served(str(i)), [observe(str(i), origin="traffic")])
        wait_until(lambda: recorder.error is not None)
        assert "failed" in str(recorder.error)
        assert (recorder.queued, recorder.shed) == (98, 0)
        with pytest.raises(StoreError):
            store.request("0")
        way.mend()
        assert store.request("0") is not None
        assert recorder.flush(20)
        assert (recorder.queued, recorder.shed, recorder.error) == (0, 0, None)
        assert len(store.load_routing_data("geo")) == 50


def test_writers_of_the_same_queries_take_turns(empty_postgresql, tmp_path, observe):
    observations = [observe(str(i)) for i in range(200)]

    def append(number: int) -> int:
        order = observations if number % 2 else observations[::-1]
        with Store.open(empty_postgresql, tmp_path / "vectors") as store:
            return sum(store.append(order[at : at + 50]) for at in range(0, 200, 50))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(append, range(4))) == 200
    with Store.open(empty_postgresql, tmp_path / "vectors") as store:
        assert len(store.load_routing_data("geo")) == 200


def test_many_open_an_empty_database_at_once(empty_postgresql, tmp_path):
    def open_and_close(number: int) -> bytes:
        with Store.open(empty_postgresql, tmp_path / f"vectors {number}") as store:
            return store.salt()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(open_and_close, range(4)))) == 1


def test_a_postgresql_without_its_driver_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'foretell\[postgres\]'"):
        Store.open("postgresql://nobody@127.0.0.1/nothing", tmp_path / "vectors")
