"""A store under processes that are killed, and under two at once."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foretell.records import ReadPoint
from foretell.store import Store, model_key

# Appends batches of three for ever (or `n_batches` times) and says so after each.
WRITER = """
import sys
import numpy as np
from foretell.records import Answer, ModelIdentity, Observation, Query, ReadPoint, Usage
from foretell.store import Store

folder, first, n_batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
identity = ModelIdentity(source="tiny", weights_sha256="a" * 64, chat_template_sha256="b" * 64,
                         engine="tiny", n_layers=2, width=4)
answer = Answer(text="a", model="tiny", finish_reason="stop",
                usage=Usage(prompt_tokens=1, completion_tokens=1))
with Store.open(f"sqlite:///{folder}/a.db", f"{folder}/vectors") as store:
    for batch in range(n_batches):
        numbers = range(first + 3 * batch, first + 3 * batch + 3)
        store.append([
            Observation(domain="geo", role="weak", model=identity, answer=answer,
                        query=Query(id=str(n), messages=({"role": "user", "content": "?"},)),
                        activations={ReadPoint(0): np.full(4, n % 1000, dtype=np.float32)})
            for n in numbers
        ])
        print(*numbers, flush=True)
"""


def start(folder: Path, first: int, n_batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(n_batches)],
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_intact(store: Store, acknowledged: set[int]) -> None:
    data = store.load_routing_data("geo")
    stored = {int(query_id) for query_id in data.ids}
    assert acknowledged <= stored
    expected = np.array([[int(query_id) % 1000] * 4 for query_id in data.ids], dtype=np.float32)
    np.testing.assert_array_equal(data.activations[ReadPoint(0)], expected)


def test_a_process_killed_while_appending_loses_nothing_it_was_told_is_stored(tmp_path, identity):
    rng = random.Random(7)  # noqa: S311
    acknowledged: set[int] = set()
    for round_number in range(4):
        with start(tmp_path, 1000 * round_number, 300) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randint(1, 12)):
                acknowledged |= {int(n) for n in writer.stdout.readline().split()}
            writer.kill()
            acknowledged |= {int(n) for n in writer.stdout.read().split()}
        with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
            assert_intact(store, acknowledged)
            observed = store.observed("geo", "weak", model_key(identity))
            assert acknowledged <= {int(query_id) for query_id in observed}
    assert len(acknowledged) >= 12


def test_two_processes_append_at_once_from_an_empty_folder(tmp_path):
    writers = [start(tmp_path, first, 25) for first in (0, 30)]  # they share numbers 30 to 74
    for writer in writers:
        output, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        assert len(output.splitlines()) == 25
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as store:
        assert_intact(store, set(range(105)))
        assert [counts.weak for counts in store.domains()] == [105]


def test_a_store_that_dies_between_vectors_and_rows_has_no_row_without_vectors(
    store, observe, monkeypatch
):
    store.append([observe("1")])

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("foretell.store._rows.observation_row", die)
        with pytest.raises(KeyboardInterrupt):
            store.append([observe("2")])
    assert store.load_routing_data("geo").ids == ("1",)
    assert store.append([observe("2")]) == 1
    assert store.load_routing_data("geo").ids == ("1", "2")
