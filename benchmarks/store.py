"""What the store takes behind a recorder, and what is shed when it is too much.

python benchmarks/store.py [--json] [--rate 1000] [--seconds 60] [--url sqlite:///…]

Each request puts one record and one observation with vectors at three read points. The database
and the vectors are in a temporary folder, unless ``--url`` names an empty PostgreSQL database.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _machine import describe_machine, show
from foretell.records import (
    Answer,
    ModelIdentity,
    Observation,
    Query,
    ReadPoint,
    RequestRecord,
    Usage,
)
from foretell.store import Recorder, Store

POINTS = (ReadPoint(10), ReadPoint(20), ReadPoint(20, "mean"))
IDENTITY = ModelIdentity(
    source="made up",
    weights_sha256="a" * 64,
    chat_template_sha256="b" * 64,
    engine="none",
    n_layers=32,
    width=960,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests to put: how many a second, how long, and how wide the vectors are."""

    rate: float
    seconds: float
    width: int
    text: str = ""


def measure(load: Load, url: str | None) -> dict[str, Any]:
    """Put a load before a new store and count what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "vectors"
        url = url or f"sqlite:///{folder}/foretell.db"
        with Store.open(url, vectors) as store, Recorder(store) as recorder:
            began, cpu = time.perf_counter(), _cpu_s()
            put_us, most_queued = _put_all(load, recorder)
            took_s = time.perf_counter() - began
            recorder.flush(120)
            flushed_s = time.perf_counter() - began - took_s
            cpu = _cpu_s() - cpu
            stored = sum(counts.weak for counts in store.domains())
        n = len(put_us)
        files = list(vectors.glob("*.parquet"))
        databases = list(Path(folder).glob("foretell.db*"))
        return {
            "put_per_s": round(n / took_s, 1),
            "stored_per_s": round(stored / (took_s + flushed_s), 1),
            "put_p50_us": round(float(np.percentile(put_us, 50)), 1),
            "put_p99_us": round(float(np.percentile(put_us, 99)), 1),
            "put_max_ms": round(float(put_us.max()) / 1000, 1),
            "cpu_share_of_one_core": round(cpu / (took_s + flushed_s), 3),
            "most_queued": most_queued,
            "flush_s": round(flushed_s, 2),
            "shed_records": recorder.shed,
            "shed_observations": recorder.shed_observations,
            "shed_vectors": recorder.shed_vectors,
            "shards": len(files),
            "vector_bytes_per_observation": round(
                sum(path.stat().st_size for path in files) / max(1, n - recorder.shed_vectors)
            ),
            "database_bytes_per_request": round(
                sum(path.stat().st_size for path in databases) / max(1, n - recorder.shed)
            )
            if databases
            else None,
        }


def _put_all(load: Load, recorder: Recorder) -> tuple[Any, int]:
    generator = np.random.default_rng(0)
    # float16 of a normal sample does not compress, like that of an activation
    pool = generator.normal(size=(997, len(POINTS), load.width)).astype(np.float32)
    began = time.perf_counter()
    nanoseconds: list[int] = []
    most_queued = 0
    while (now := time.perf_counter() - began) < load.seconds:
        for number in range(len(nanoseconds), int(now * load.rate) + 1):
            record, observation = _request(number, pool[number % len(pool)], load.text)
            start = time.perf_counter_ns()
            recorder.put(record, [observation])
            nanoseconds.append(time.perf_counter_ns() - start)
        most_queued = max(most_queued, recorder.queued + recorder.queued_vectors)
        time.sleep(0.0005)
    return np.array(nanoseconds) / 1000, most_queued


def _request(number: int, vectors: Any, text: str) -> tuple[RequestRecord, Observation]:
    record = RequestRecord(
        id=f"req-{number:032x}",
        at=time.time(),
        key_id="key-0123456789ab",
        route="auto",
        domain="support",
        model="small",
        serve="weak",
        action="keep",
        cause=None,
        status=200,
        streamed=True,
        p_success=0.9,
        keep_at=0.8,
        probe="support@3",
        seconds=0.5,
        weak_model="sha256:" + "a" * 64,
        weak_chance=1.0,
    )
    observation = Observation(
        domain="support",
        query=Query(
            id=record.id, messages=({"role": "user", "content": text},), group=f"{number:064x}"
        ),
        role="weak",
        model=IDENTITY,
        answer=Answer(
            text=text,
            model="small",
            finish_reason="stop",
            usage=Usage(prompt_tokens=200, completion_tokens=50),
        ),
        activations=dict(zip(POINTS, vectors, strict=True)),
        own_tokens=120,
        tenant=record.key_id,
        origin="traffic",
    )
    return record, observation


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each load lasts")
    parser.add_argument("--url", help="of an empty PostgreSQL database")
    options = parser.parse_args()
    rate, seconds = options.rate, options.seconds
    loads = {
        "reduced vectors, 3 x 32": Load(rate=rate, seconds=seconds, width=32),
        "full vectors, 3 x 960": Load(rate=rate, seconds=seconds, width=960),
        "full vectors and texts of 1000 characters": Load(
            rate=rate, seconds=seconds, width=960, text="word " * 200
        ),
        "four times as many, full vectors": Load(rate=4 * rate, seconds=seconds / 3, width=960),
        "eight times as many, full vectors": Load(rate=8 * rate, seconds=seconds / 3, width=960),
    }
    result: dict[str, Any] = {"machine": describe_machine()}
    # One database would hold what the load before left; queries of one id are stored once.
    if options.url:
        loads = {"full vectors, 3 x 960": loads["full vectors, 3 x 960"]}
    result |= {name: measure(load, options.url) for name, load in loads.items()}
    show(result, as_json=options.json)


if __name__ == "__main__":
    main()
