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
from io import FileIO
from typing import Any, Final

from foretell.config import parse_config
from foretell.flywheel._duties import work_on
from foretell.flywheel._queue import JobQueue
from foretell.runtime import Foretell

_NICE: Final = 10
_ORPHANED: Final = 3


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
            work_on(job, config, queue)


def _end_with_parent(orders: FileIO) -> None:
    orders.read()
    # Nobody watches over this process any more; the job is taken up again where it can be.
    os._exit(_ORPHANED)


if __name__ == "__main__":
    # Unbuffered: a buffer's lock would be held, at the end, by the thread that waits on it.
    main(FileIO(sys.stdin.fileno(), closefd=False))
