"""A recorder in a process that is killed."""

from __future__ import annotations

import random
import subprocess
import sys

from foretell.records import Feedback
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
