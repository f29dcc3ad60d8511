"""Every kind of fitted probe, and how one is made again from what a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._protocol import FittedProbe

# By name, so that a probe is read without loading the code of the others.
_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "attention": ("_attention", "FittedAttentionProbe"),
    "fusion": ("_fusion", "FittedFusionProbe"),
    "linear": ("_linear", "FittedLinearProbe"),
    "mix": ("_mix", "FittedMixProbe"),
    "mlp": ("_mlp", "FittedMlpProbe"),
    "several": ("_several", "FittedSeveralProbe"),
}

KINDS: Final = tuple(_CLASSES)
"""Kinds of probe that can be read, in alphabetical order."""


def from_tensors(
    kind: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    calibration: Calibration,
) -> FittedProbe:
    """The fitted probe whose ``kind``, ``settings()`` and ``tensors()`` these are.

    Raises:
        InputError: A kind that this foretell does not know, or parts that do not make one of it.
    """
    if kind not in _CLASSES:
        raise InputError(
            f"a probe of kind {kind!r} is unknown here; this foretell reads {', '.join(KINDS)}, "
            "so upgrade foretell or train the probe again"
        )
    module, name = _CLASSES[kind]
    probe: Any = getattr(import_module(f"foretell.probes.{module}"), name)
    return probe.from_tensors(settings, tensors, calibration)
