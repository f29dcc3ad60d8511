"""A process that does one job and ends: ``python -m foretell.flywheel._job_process``.

What it needs comes as a line of JSON on its standard input, which then stays open for as long as
whoever started it lives.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from dataclasses import asdict, dataclass
from subprocess import PIPE, Popen
from typing import IO, Any, Final

from foretell.config import Config, parse_config
from foretell.records import Job

_NICE: Final = 10
_ORPHANED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What to do, by which settings, in whose name."""

    job_id: int
    worker: str
    lease_s: float
    config: dict[str, Any]


def start_job_process(config: Config, job: Job, *, worker: str, lease_s: float) -> Popen[bytes]:
    """Start a process that does a job which ``worker`` has claimed.

    It yields the processor to everything else, settles the job itself, and ends when its standard
    input does: with whoever started it.
    """
    order = _Order(
        job_id=job.id,
        worker=worker,
        lease_s=lease_s,
        config=config.model_dump(mode="json"),
    )
    # In a session of its own, a Ctrl-C is not for it: the worker ends it and puts the job back.
    process = Popen([sys.executable, "-m", __name__], stdin=PIPE, start_new_session=True)  # noqa: S603
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it is over already, as its exit status says
    return process


def _main(orders: IO[bytes]) -> None:
    from foretell.flywheel._duties import work_on
    from foretell.flywheel._queue import JobQueue
    from foretell.runtime import Foretell

    if hasattr(os, "nice"):
        os.nice(_NICE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    order = _Order(**json.loads(orders.readline()))
    threading.Thread(target=_end_with_parent, args=(orders,), daemon=True).start()
    config = parse_config(order.config, where="the settings handed on")
    with Foretell(config).open_store() as store:
        job = store.job(order.job_id)
        if job is None:
            return  # erased meanwhile: nobody asks for it any more
        work_on(job, config, JobQueue(store, order.worker, lease_s=order.lease_s))


def _end_with_parent(orders: IO[bytes]) -> None:
    orders.read()
    # Nobody watches over this process any more; the job is taken up again where it can be.
    os._exit(_ORPHANED)


if __name__ == "__main__":
    _main(sys.stdin.buffer)
