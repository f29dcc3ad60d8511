"""Arrays that a fitted probe is made of, and back out of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import InputError


def frozen(array: ArrayLike, name: str) -> NDArray[np.float32]:
    """A read-only, contiguous float32 copy.

    Raises:
        InputError: Numbers that are not finite; ``name`` says whose.
    """
    copy = np.array(array, dtype=np.float32, order="C")
    copy.flags.writeable = False
    if bad := int(np.count_nonzero(~np.isfinite(copy))):
        raise InputError(f"the probe's {name} holds {bad} numbers that are not finite")
    return copy


def tensor_named(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """One of a file's tensors.

    Raises:
        InputError: There is none of that name.
    """
    if name not in tensors:
        raise InputError(
            f"no tensor {name!r} among {', '.join(sorted(tensors)) or 'none at all'}; "
            "save the probe again"
        )
    return tensors[name]


def setting_named(settings: Mapping[str, Any], name: str) -> Any:
    """One of a card's settings.

    Raises:
        InputError: There is none of that name.
    """
    if name not in settings:
        raise InputError(
            f"no setting {name!r} among {', '.join(sorted(settings)) or 'none at all'}; "
            "save the probe again"
        )
    return settings[name]
