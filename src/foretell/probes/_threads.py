"""Threads of the linear algebra behind fits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

from foretell.threads import default_threads


def spare_one_core() -> AbstractContextManager[object]:
    """Within it, linear algebra uses the cores this process may use less one, at least one.

    Its threads spin while they wait for each other: on every core of a busy machine, a search that
    takes half a minute took nine.
    """
    try:
        # SciPy brings a linear algebra library of its own; only loaded ones can be limited.
        import_module("scipy.linalg")
        from threadpoolctl import threadpool_limits
    except ImportError:  # both come with scikit-learn, without which nothing is fitted
        return nullcontext()
    return threadpool_limits(default_threads())
