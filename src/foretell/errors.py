"""Every error foretell raises on purpose.

A message says what happened, what was found, what was wanted and what to do next. Foreign
exceptions are translated where they enter.
"""

from __future__ import annotations


class RoutingError(Exception):
    """Base of all errors foretell raises on purpose; its text is fit for a user to read."""


class ConfigError(RoutingError):
    """A setting is missing, unknown or contradicts another."""


class InputError(RoutingError):
    """A query, label, option or file given by the user cannot be used as it is."""


class ModelFileError(RoutingError):
    """Weights are missing, damaged, or not what their checksum promises."""


class EngineUnavailableError(RoutingError):
    """An engine cannot run here: its library is absent, too old, or laid out differently."""


class EngineClosedError(RoutingError):
    """The engine was closed while (or before) the request was being served."""


class EngineBusyError(RoutingError):
    """The engine's queue is full; try again later or elsewhere."""


class ContextOverflowError(InputError):
    """The prompt, with the room asked for the answer, does not fit the context."""


class UnknownReadPointError(InputError):
    """A read point names a layer or pooling that this model does not have."""


class CancelledError(RoutingError):
    """The request was given up by its caller before it finished."""


class ProbeMismatchError(RoutingError):
    """A probe was fitted on another model, chat template or domain than the one served."""


class ProbeFileError(RoutingError):
    """A saved probe is incomplete, damaged, or written by a newer version."""


class TrainingDataError(InputError):
    """The labelled queries cannot support the fit that was asked for."""


class StoreError(RoutingError):
    """Observations or vectors cannot be read or written."""


class UpstreamError(RoutingError):
    """A model behind an API did not answer as its protocol promises."""
