"""How many threads numerical work takes when nobody says."""

from __future__ import annotations

import os


def default_threads() -> int:
    """Cores this process may use, less one, at least one: spinning on every core is slow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 2) - 1)
