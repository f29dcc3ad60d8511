"""A recorder in a process that is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from foretell.records import Feedback, ReadPoint
from foretell.store import Store, key_sha256

# Puts records for ever, 50 at a time, and prints the number below which a flush acknowledged all.
WRITER = """
import sys
from foretell.records import RequestRecord
from foretell.store import Recorder, Store

folder, first = sys.argv[1], int(sys.argv[2])
with Store.open(f"sqlite:///{folder}/a.db", f"{folder}/vectors") as store:
    recorder = Recorder(store, interval_s=0.005)
    for start in range(first, first + 50_000, 50):
        for number in range(start, start + 50):
            recorder.put(RequestRecord(
                id=str(number), at=float(number), key_id="", route="auto", domain=None, model="m",
                serve="weak", action="keep", cause=None, status=200, streamed=False))
        if recorder.flush():
            print(start + 50, flush=True)
"""


def test_what_a_flush_acknowledged_survives_a_kill(tmp_path):
    rng = random.Random(3)  # noqa: S311
    first = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.randint(1, 20))]
            writer.kill()
            lines += writer.stdout.read().splitlines(keepends=True)
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))  # one may be cut off
        with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
            stored = sorted(int(record.id) for record in store.requests(limit=100_000))
        assert stored == list(range(len(stored)))  # nor has the rest any gaps
        assert len(stored) >= acknowledged
        first = len(stored)


# The same for what requests showed; `interval` shuffles whether rows or vectors are being written.
OBSERVER = """
import sys
import numpy as np
from foretell.records import (
    Answer, ModelIdentity, Observation, Query, ReadPoint, RequestRecord, Usage)
from foretell.store import Recorder, Store

url, folder, first, interval = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
identity = ModelIdentity(source="tiny", weights_sha256="a" * 64, chat_template_sha256="b" * 64,
                         engine="tiny", n_layers=2, width=8)
answer = Answer(text="a", model="tiny", finish_reason="stop",
                usage=Usage(prompt_tokens=1, completion_tokens=1))
with Store.open(url, f"{folder}/vectors") as store:
    recorder = Recorder(store, interval_s=interval, vectors_interval_s=2 * interval)
    print(first, flush=True)
    for start in range(first, first + 50_000, 20):
        for number in range(start, start + 20):
            recorder.put(RequestRecord(
                id=str(number), at=float(number), key_id="", route="auto", domain="geo", model="m",
                serve="weak", action="keep", cause=None, status=200, streamed=False),
                [Observation(
                    domain="geo", role="weak", model=identity, answer=answer, origin="traffic",
                    query=Query(id=str(number), messages=({"role": "user", "content": ""},)),
                    activations={ReadPoint(0): np.full(8, number % 1000, dtype=np.float32)})])
        if recorder.flush():
            print(start + 20, flush=True)
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_a_flush_acknowledged_survives_a_kill_with_its_vectors(database, tmp_path, request):
    url = f"sqlite:///{tmp_path}/a.db"
    if database == "postgresql":
        url = request.getfixturevalue("empty_postgresql")
    rng = random.Random(5)  # noqa: S311
    first = 0
    for interval in ("0.001", "0.02", "0.2"):
        command = [sys.executable, "-c", OBSERVER, url, str(tmp_path), str(first), interval]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.randint(2, 12))]
            time.sleep(rng.random() * 0.05)
            writer.kill()
            lines += writer.stdout.read().splitlines(keepends=True)
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        with Store.open(url, tmp_path / "vectors") as store:
            stored = sorted(int(record.id) for record in store.requests(limit=100_000))
            observed = sorted(int(one.query.id) for one in store.observations("geo"))
            read = store.load_routing_data("geo", read_points=[ReadPoint(0)])
        # neither what was acknowledged nor the rest has any gaps
        assert stored == list(range(len(stored)))
        assert observed == list(range(len(observed)))
        assert min(len(stored), len(observed)) >= acknowledged > first
        assert {int(query_id) for query_id in read.ids} >= set(range(first, acknowledged))
        expected = [[int(query_id) % 1000] * 8 for query_id in read.ids]
        np.testing.assert_array_equal(read.activations[ReadPoint(0)], expected)
        first = max(len(stored), len(observed))


def test_what_feedback_keys_and_configurations_returned_from_survives_a_kill(tmp_path):
    program = """
import os, signal, sys
from foretell.records import Feedback, RequestRecord
from foretell.store import Store

folder = sys.argv[1]
store = Store.open(f"sqlite:///{folder}/a.db", f"{folder}/vectors")
store.append_requests([RequestRecord(
    id="a", at=1.0, key_id="", route="auto", domain=None, model="m", serve="weak", action="keep",
    cause=None, status=200, streamed=False)])
store.put_feedback(
    Feedback(request_id="a", metric="good", value=1, source="human"), key_id="")
_, key = store.create_key("billing")
store.put_config_version("hash", "text", "start")
print(key, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
        said = Feedback(request_id="a", metric="good", value=1, source="human")
        assert store.feedback("a") == [said]
        assert store.key_by_sha256(key_sha256(killed.stdout.strip())) is not None
        assert len(store.config_versions()) == 1
