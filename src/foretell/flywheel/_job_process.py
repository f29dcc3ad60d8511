"""A process that does one job and ends: ``python -m foretell.flywheel._job_process``.

What it needs comes as a line of JSON on its standard input, which then stays open for as long as
whoever started it lives.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from io import FileIO
from typing import Any, Final

from foretell.config import parse_config
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue
from foretell.runtime import Foretell

_NICE: Final = 10
_ORPHANED: Final = 3
_STILL_S: Final = 3600.0
"""How long a job may go on without any progress."""


def main(orders: FileIO) -> None:
    """Do the job that the line names: ``job_id``, for ``worker``, by ``config``."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    order: Any = json.loads(orders.readline())
    threading.Thread(target=_end_with_parent, args=(orders,), daemon=True).start()
    config = parse_config(order["config"], where="the settings handed on")
    with Foretell(config).open_store() as store:
        job = store.job(order["job_id"])
        if job is not None:
            queue = JobQueue(store, order["worker"], lease_s=order["lease_s"])
            watchdog = _Watchdog(order["lease_s"])
            watchdog.start()
            work_on(job, config, queue, on_progress=watchdog.progressed)


class _Watchdog(threading.Thread):
    """Ends this process when it hangs, and says on stderr where.

    That is when no thread comes to run for ``lease_s`` (a pattern that searches for ever lets go of
    nothing; the job is another's by then), or nothing progresses for an hour. It is the C library's
    own thread that ends it, which needs no interpreter.
    """

    def __init__(self, lease_s: float) -> None:
        super().__init__(name="foretell-watchdog", daemon=True)
        self._lease_s = lease_s
        self._progressed_at = time.monotonic()

    def progressed(self, _progress: float | None, _message: str) -> None:
        """The job goes on."""
        self._progressed_at = time.monotonic()

    def run(self) -> None:
        """Put the end off for as long as all is well."""
        while time.monotonic() - self._progressed_at < _STILL_S:
            faulthandler.dump_traceback_later(self._lease_s, exit=True)
            time.sleep(self._lease_s / 4)


def _end_with_parent(orders: FileIO) -> None:
    orders.read()
    # Nobody watches over this process any more; the job is taken up again where it can be.
    os._exit(_ORPHANED)


if __name__ == "__main__":
    # Unbuffered: a buffer's lock would be held, at the end, by the thread that waits on it.
    main(FileIO(sys.stdin.fileno(), closefd=False))
