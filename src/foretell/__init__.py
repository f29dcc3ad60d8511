"""foretell: read a small model's own activations and foretell whether it will answer well.

What users meet is here; the rooms (``foretell.probes``, ``foretell.prefill``, …) hold the rest.
Names are imported when they are first used, so ``import foretell`` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretell.errors import RoutingError
    from foretell.records import (
        Answer,
        Decision,
        Message,
        ModelIdentity,
        Query,
        ReadPoint,
        Reply,
        Sampling,
        Usage,
    )
    from foretell.runtime import Foretell

    __version__: str

__all__ = [
    "Answer",
    "Decision",
    "Foretell",
    "Message",
    "ModelIdentity",
    "Query",
    "ReadPoint",
    "Reply",
    "RoutingError",
    "Sampling",
    "Usage",
    "__version__",
]

_ELSEWHERE = {"Foretell": "foretell.runtime", "RoutingError": "foretell.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'foretell' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("foretell")
    return getattr(import_module(_ELSEWHERE.get(name, "foretell.records")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
